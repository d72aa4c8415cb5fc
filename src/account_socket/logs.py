"""
Log lines: which are written (`RUST_LOG`), in what shape (`LOG_FORMAT`), and never with a secret.

Loggers are `structlog.get_logger("account_socket.<part>")`, part being server, websocket, pipeline, upstream,
database, cache or service. The libraries' own loggers (aiohttp, websockets, asyncio, redis) come out the same way.
A level that is off costs a method call that does nothing: the level is chosen once per logger, not per line.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from math import inf
from time import monotonic
from typing import Any, Literal, Protocol
from urllib.parse import quote, unquote

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from account_socket.errors import SettingsError

OWN = "account_socket"
TRACE = 5
OFF = logging.CRITICAL + 10
LEVELS = {
    "off": OFF,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": TRACE,
}
SHORTEST_SECRET = 6
"""Shorter ones are not searched for in log lines: they would blank ordinary words."""

MAX_REMEMBERED = 100
"""Different warnings that a `Seldom` remembers: what a node writes goes into them."""

LogFormat = Literal["console", "json"]


class Stream(Protocol):
    """Where lines can be written."""

    def write(self, text: str, /) -> int: ...

    def flush(self) -> None: ...

    def isatty(self) -> bool: ...


@dataclass(frozen=True)
class Directives:
    """
    What `RUST_LOG` says.

    Attributes:
        default: the level of our loggers that no module names. Libraries are one stricter: `warn` at most, because at
            debug they log whole requests, keys included; a directive that names one lifts that.
        modules: level by dotted logger name; it holds for the names below it too, the longest that fits wins.
    """

    default: int
    modules: dict[str, int]

    def level_of(self, name: str) -> int:
        """Return the lowest level that is written for the logger `name`."""
        prefix = name
        while prefix:
            if prefix in self.modules:
                return self.modules[prefix]
            prefix = prefix.rpartition(".")[0]
        ours = name == OWN or name.startswith(OWN + ".")
        return self.default if ours else max(self.default, logging.WARNING)


def parse_directives(text: str) -> Directives:
    """
    Read `RUST_LOG`: comma-separated `level` or `module=level`; `a::b` and `a.b` are the same module.

    Where only modules are named, everything else is at `warn`: looking at one part does not silence the others.

    Raises:
        SettingsError: what is wrong with which directive.
    """
    default: int | None = None
    modules: dict[str, int] = {}
    for directive in filter(None, (part.strip() for part in text.split(","))):
        module, equals, level_name = (part.strip() for part in directive.rpartition("="))
        level = LEVELS.get(level_name.lower())
        if level is None:
            raise SettingsError(f"{directive!r}: the level is not one of {', '.join(LEVELS)}")
        if not equals:
            default = level
        elif re.fullmatch(r"[\w.-]+", name := module.replace("::", ".")):
            modules[name] = level
        else:
            raise SettingsError(f"{directive!r}: {module!r} is not a module name")
    if default is None:
        default = logging.WARNING if modules else logging.INFO
    return Directives(default, modules)


class Seldom:
    """
    Warnings of tries that go on and on: the same event with the same error is written once in `every` seconds.

    The next one says how many were left out before it (`repeated`).
    """

    def __init__(self, log: Any, *, every: float = 60.0, clock: Callable[[], float] = monotonic) -> None:
        self._log = log
        self._every = every
        self._clock = clock
        self._told: dict[tuple[str, str], tuple[float, int]] = {}

    def warning(self, event: str, *, error: str, **facts: Any) -> None:
        """Write the line, or count it."""
        now = self._clock()
        at, left_out = self._told.get((event, error), (-inf, 0))
        if now - at < self._every:
            self._told[event, error] = (at, left_out + 1)
            return
        if len(self._told) >= MAX_REMEMBERED:
            self._told.clear()
        self._told[event, error] = (now, 0)
        if left_out:
            facts["repeated"] = left_out
        self._log.warning(event, error=error, **facts)


class _Sink:
    """The end of one named logger: takes finished lines."""

    def __init__(self, name: str, write: Callable[[str], None]) -> None:
        self.name = name
        self.trace = self.debug = self.info = self.warning = self.error = self.critical = write


class _LibraryHandler(logging.Handler):
    """Passes records of the standard library's loggers on to the same processors."""

    def __init__(self, make_sink: Callable[[str], _Sink], processors: list[Processor]) -> None:
        super().__init__()
        self._make_sink = make_sink
        self._processors = processors

    def emit(self, record: logging.LogRecord) -> None:
        logger = _bound_logger(logging.NOTSET)(self._make_sink(record.name), self._processors, {})
        method = next((method for method, level in _METHODS if record.levelno >= level), "trace")
        getattr(logger, method)(record.getMessage(), exc_info=record.exc_info)


_METHODS = (
    ("critical", logging.CRITICAL),
    ("error", logging.ERROR),
    ("warning", logging.WARNING),
    ("info", logging.INFO),
    ("debug", logging.DEBUG),
)


def configure(
    directives: str,
    *,
    log_format: LogFormat | None = None,
    secrets: Iterable[str] = (),
    stream: Stream | None = None,
) -> None:
    """
    Set up logging for this process; called once, before the first line.

    Args:
        directives: `RUST_LOG`.
        log_format: None chooses console on a terminal, else json (one object a line).
        secrets: API keys, passwords, tokens: replaced by `***` wherever they stand in a finished line. A last resort:
            URLs are scrubbed where they enter a message.
        stream: where lines go; None is stderr.
    Raises:
        SettingsError: see `parse_directives`.
    """
    chosen = parse_directives(directives)
    out = stream or sys.stderr
    on_terminal = out.isatty()
    console = log_format == "console" or (log_format is None and on_terminal)
    processors = _processors(console=console, colors=on_terminal and "NO_COLOR" not in os.environ)
    write = _writer(out, _scrubber(secrets))

    def make_sink(name: str = OWN) -> _Sink:
        return _Sink(name, write)

    def bind(sink: _Sink, processors: list[Processor], context: dict[str, Any]) -> Any:
        return _bound_logger(chosen.level_of(sink.name))(sink, processors, context)

    structlog.configure(
        processors=processors,
        wrapper_class=bind,  # type: ignore[arg-type]  # called as a class is, and returns one's instance
        logger_factory=make_sink,
        cache_logger_on_first_use=True,
    )
    logging.root.handlers[:] = [_LibraryHandler(make_sink, processors)]
    logging.root.setLevel(chosen.level_of(""))
    logging.getLogger(OWN).setLevel(chosen.default)
    for name, level in chosen.modules.items():
        logging.getLogger(name).setLevel(level)


@cache
def _bound_logger(level: int) -> Any:
    """Return the class of a logger that writes from `level` on; methods below it do nothing."""
    base = structlog.make_filtering_bound_logger(logging.NOTSET if level <= TRACE else min(level, logging.CRITICAL))
    methods: dict[str, Any] = {"trace": _write_trace if level <= TRACE else _write_nothing}
    if level == OFF:
        methods |= dict.fromkeys(("critical", "fatal"), _write_nothing)
    return type(f"BoundLogger{level}", (base,), methods)


def _write_trace(self: Any, event: str, **fields: Any) -> None:
    self._proxy_to_logger("trace", event, **fields)


def _write_nothing(self: Any, event: str, **fields: Any) -> None:
    pass


def _processors(*, console: bool, colors: bool) -> list[Processor]:
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    if not console:
        return [
            stamp,
            _add_origin,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
    styles = structlog.dev.ConsoleRenderer.get_default_level_styles(colors)
    renderer = structlog.dev.ConsoleRenderer(
        colors=colors,
        sort_keys=False,
        level_styles=styles | {"trace": styles["debug"]},
        # Tracebacks with local variables would show URLs and tokens.
        exception_formatter=structlog.dev.plain_traceback,
        # A terminal obeys escape sequences in what a client sent; repr shows them instead.
        repr_native_str=True,
    )
    return [stamp, _add_origin, structlog.processors.format_exc_info, _printable, renderer]


def _add_origin(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    # A reader scans lines from the left: when, how bad, who, what.
    head = {"timestamp": event.pop("timestamp"), "level": method, "logger": logger.name, "event": event.pop("event")}
    if event.get("hint") == "":
        del event["hint"]  # an error that has none
    return {**head, **event}


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def _printable(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for key in ("event", "exception"):
        if key in event:
            event[key] = _CONTROL.sub(lambda match: repr(match[0])[1:-1], str(event[key]))
    return event


def _scrubber(secrets: Iterable[str]) -> Callable[[str], str]:
    """Return what blanks each of `secrets`, in the forms it takes inside URLs and JSON."""
    forms: set[str] = set()
    for secret in secrets:
        for form in (secret, quote(secret, safe=""), unquote(secret)):
            if len(form) >= SHORTEST_SECRET:
                forms |= {form, json.dumps(form)[1:-1], repr(form)[1:-1]}
    if not forms:
        return str
    pattern = re.compile("|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True)))
    return lambda line: pattern.sub("***", line)


def _writer(out: Stream, scrub: Callable[[str], str]) -> Callable[[str], None]:
    def write(line: str) -> None:
        try:
            out.write(scrub(line) + "\n")
            out.flush()
        except (OSError, ValueError):
            # Nobody reads our log any more (closed pipe, closed stream); the server goes on.
            return

    return write
