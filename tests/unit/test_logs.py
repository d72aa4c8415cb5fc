"""Log lines: directives, shapes, secrets."""

from __future__ import annotations

import io
import json
import logging
import re
import timeit
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from account_socket import logs
from account_socket.errors import SettingsError
from account_socket.logs import OFF, TRACE, Seldom, parse_directives

SECRET = "k3y/with+signs"


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    for name in ("account_socket", "lib", "lib.part"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    structlog.reset_defaults()


def fail(reason: str) -> None:
    local = reason[::-1]
    raise ConnectionError(f"refused {reason}", len(local))


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def configured(directives: str = "info", stream: io.StringIO | None = None, **options: Any) -> io.StringIO:
    stream = stream or io.StringIO()
    logs.configure(directives, stream=stream, **options)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("text", "name", "level"),
    [
        ("", "account_socket.server", logging.INFO),
        ("info", "account_socket.server", logging.INFO),
        ("DEBUG", "account_socket", logging.DEBUG),
        ("info,account_socket=debug", "account_socket.server", logging.DEBUG),
        ("account_socket=debug,info", "account_socket.server", logging.DEBUG),
        ("account_socket::websocket=trace", "account_socket.websocket", TRACE),
        ("account_socket.websocket=trace", "account_socket.websocket", TRACE),
        ("account_socket::websocket=trace", "account_socket.websocket.part", TRACE),
        ("account_socket::websocket=trace", "account_socket.websockets", logging.WARNING),
        ("account_socket::websocket=trace", "account_socket.server", logging.WARNING),
        ("account_socket=error,account_socket.server=debug", "account_socket.server", logging.DEBUG),
        ("account_socket.server=debug,account_socket=error", "account_socket.server", logging.DEBUG),
        ("off", "account_socket.server", OFF),
        ("debug,account_socket.server=off", "account_socket.server", OFF),
        ("warn, account_socket.server = info ,", "account_socket.server", logging.INFO),
        ("debug", "websockets.client", logging.WARNING),
        ("debug", "account_sockets", logging.WARNING),
        ("error", "aiohttp.access", logging.ERROR),
        ("info,aiohttp=debug", "aiohttp.access", logging.DEBUG),
        ("info,info,warn", "account_socket", logging.WARNING),
    ],
)
def test_level_of_a_logger(text: str, name: str, level: int) -> None:
    """The longest directive that fits decides; without one ours have the default level, libraries warn at most."""
    assert parse_directives(text).level_of(name) == level


@pytest.mark.parametrize(
    "text", ["loud", "account_socket", "=info", "a b=info", "a=b=info", "a=", "info;debug", "a[b]=info"]
)
def test_bad_directive(text: str) -> None:
    """A directive that is neither `level` nor `module=level` is refused by name."""
    with pytest.raises(SettingsError, match=re.escape(repr(text))):
        parse_directives(text)


@given(st.text())
def test_any_text_is_directives_or_a_settings_error(text: str) -> None:
    """Whatever RUST_LOG holds, it is understood or refused."""
    try:
        assert parse_directives(text).level_of("account_socket") in logs.LEVELS.values()
    except SettingsError as error:
        assert "'" in str(error)  # noqa: PT017  (both outcomes are right)


def test_json_line() -> None:
    """Off a terminal a line is one JSON object: timestamp in UTC, level, logger, event, then the fields."""
    stream = configured()
    structlog.get_logger("account_socket.server").info("connection closed", conn=7, code=4008)
    [line] = lines(stream)
    assert list(line) == ["timestamp", "level", "logger", "event", "conn", "code"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line["timestamp"])
    assert (line["level"], line["logger"], line["event"]) == ("info", "account_socket.server", "connection closed")


def test_format_follows_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal gets readable lines, in colour unless NO_COLOR is set; `log_format` decides where given."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = configured(stream=_Terminal())
    structlog.get_logger("account_socket.server").info("ready")
    assert "\x1b[" in terminal.getvalue()
    assert "ready" in terminal.getvalue()

    monkeypatch.setenv("NO_COLOR", "1")
    plain = configured(stream=_Terminal())
    structlog.get_logger("account_socket.server").info("ready")
    assert "\x1b[" not in plain.getvalue()

    forced = configured(stream=_Terminal(), log_format="json")
    structlog.get_logger("account_socket.server").info("ready")
    assert lines(forced)[0]["event"] == "ready"

    console = configured(log_format="console")
    structlog.get_logger("account_socket.server").info("ready")
    assert not console.getvalue().startswith("{")


def test_levels_below_are_not_written() -> None:
    """Each level writes itself and what is worse."""
    order = ["trace", "debug", "info", "warning", "error", "critical"]
    for directive, first in [("trace", 0), ("debug", 1), ("info", 2), ("warn", 3), ("error", 4), ("off", 6)]:
        stream = configured(directive)
        logger = structlog.get_logger("account_socket.server")
        for method in order:
            getattr(logger, method)("event")
        assert [line["level"] for line in lines(stream)] == order[first:]


def test_off_silences_exceptions_too() -> None:
    """At `off` not even an exception is written."""
    stream = configured("off")
    try:
        fail("quietly")
    except ConnectionError:
        structlog.get_logger("account_socket.server").exception("failed")
    assert stream.getvalue() == ""


def test_logger_made_before_configuring() -> None:
    """A module's logger obeys what is configured later, and so do loggers bound from it."""
    logger = structlog.get_logger("account_socket.late")
    stream = configured("error,account_socket.late=debug")
    logger.bind(conn=3).debug("event", n=1)
    assert lines(stream)[0]["conn"] == 3


def test_a_level_that_is_off_costs_nearly_nothing() -> None:
    """A debug call at info formats nothing, and costs at most a fifth of a written one."""
    configured()
    logger = structlog.get_logger("account_socket.pipeline")

    class _Unprintable:
        def __repr__(self) -> str:
            raise AssertionError("formatted")

    logger.debug("event", value=_Unprintable())
    silent = min(timeit.repeat(lambda: logger.debug("event", a=1), number=2000, repeat=5))
    written = min(timeit.repeat(lambda: logger.info("event", a=1), number=2000, repeat=5))
    assert silent < written / 5


def test_library_records_come_out_the_same_way() -> None:
    """Records of the standard library's loggers are lines of the same shape, filtered by the same directives."""
    stream = configured("info,lib.part=debug")
    logging.getLogger("lib").info("not written")
    logging.getLogger("lib").warning("went %s", "wrong")
    logging.getLogger("lib.part").debug("written")
    logging.getLogger("lib.part").log(15, "between levels")
    assert [(line["level"], line["logger"], line["event"]) for line in lines(stream)] == [
        ("warning", "lib", "went wrong"),
        ("debug", "lib.part", "written"),
        ("debug", "lib.part", "between levels"),
    ]


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_secrets_are_blanked_everywhere(log_format: logs.LogFormat) -> None:
    """A configured secret stands in no line: event, field, traceback, percent-encoded, escaped."""
    stream = configured(log_format=log_format, secrets=[SECRET, 'quo"te\\d', "short", ""])
    logger = structlog.get_logger("account_socket.upstream")
    event = f"to {SECRET}"
    logger.info(event, url=f"wss://h/?k={SECRET}", encoded="k3y%2Fwith%2Bsigns", quoted='quo"te\\d')
    try:
        fail(SECRET)
    except ConnectionError:
        logger.exception("failed")
        logging.getLogger("lib").exception("failed too")
    written = stream.getvalue()
    assert "ConnectionError" in written
    assert written.count("***") >= 6
    for form in (SECRET, "k3y%2Fwith%2Bsigns", "te\\d", "te\\\\d"):
        assert form not in written


def test_tracebacks_show_no_local_variables() -> None:
    """A traceback holds lines of code, not the values of variables."""
    for log_format in ("console", "json"):
        stream = configured(log_format=log_format)
        try:
            fail("drawkcab")
        except ConnectionError:
            structlog.get_logger("account_socket.server").exception("failed")
        assert "ConnectionError" in stream.getvalue()
        assert "backward" not in stream.getvalue()


def test_console_shows_control_characters_instead_of_obeying_them() -> None:
    """What a client sent cannot move the cursor or fake a line of its own."""
    stream = configured(log_format="console")
    structlog.get_logger("account_socket.websocket").info("bad \x1b[2J message", text="a\x1b[2J\nb")
    assert "\x1b" not in stream.getvalue()
    assert len(stream.getvalue().splitlines()) == 1


def test_a_log_that_nobody_reads_is_no_fault() -> None:
    """A closed stream swallows lines; the caller goes on."""
    stream = configured()
    stream.close()
    structlog.get_logger("account_socket.server").info("ready")
    assert stream.closed


# ---- warnings of tries that go on and on -------------------------------------------------------------------


def test_the_same_warning_is_written_once_a_minute() -> None:
    """What is tried again and again is told once, after a minute with how often it came, and anew if it changes."""
    now = 0.0
    with structlog.testing.capture_logs() as lines:
        tries = Seldom(structlog.get_logger("account_socket.test"), clock=lambda: now)
        for now in range(0, 70, 10):  # noqa: B007  (the clock reads it)
            tries.warning("not done", error="full", retry_in=1)
        tries.warning("not done", error="locked", retry_in=1)
        tries.warning("not read", error="full")
    assert [(line["event"], line["error"], line.get("repeated")) for line in lines] == [
        ("not done", "full", None),
        ("not done", "full", 5),
        ("not done", "locked", None),
        ("not read", "full", None),
    ]


def test_endlessly_many_warnings_take_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors that differ each time are all written, and not all remembered."""
    monkeypatch.setattr(logs, "MAX_REMEMBERED", 10)
    with structlog.testing.capture_logs() as lines:
        tries = Seldom(structlog.get_logger("account_socket.test"))
        for number in range(100):
            tries.warning("not done", error=str(number))
    assert len(lines) == 100
    assert len(tries._told) <= 10
