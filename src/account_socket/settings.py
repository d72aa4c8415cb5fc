"""
Every setting, in one table: the fields of `Settings`. Checks, flags, docs/settings.md and .env.example come from it.

A setting is taken from its flag, else the environment, else `.env` in the working directory, else its default; an
empty value counts as not set. `make docs` writes the generated files.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le
from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import AfterValidator, AliasChoices, BeforeValidator, ByteSize, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from account_socket import settings_values as values
from account_socket.endpoints import derive_http_url, secrets_of
from account_socket.errors import SettingsError, scrub_url

ENV_FILE = Path(".env")
ENV_ENCODING = "utf-8-sig"
"""Editors on Windows put a byte order mark before the first name."""

MAX_TOLD = 10
"""Lines of a `.env` that are told to be none."""

log = logging.getLogger(__name__)
# It tells the same of a line, but not of which file.
logging.getLogger("dotenv.main").setLevel(logging.ERROR)


@dataclass(frozen=True)
class About:
    """
    What people are told of a setting.

    Attributes:
        help: its meaning, in Markdown; a phrase.
        unit: of the number, or "".
        default: the default in words, where the value itself would not explain it.
        secret: may hold a key or a password; shown scrubbed, never printed by `repr`.
    """

    help: str
    unit: str = ""
    default: str = ""
    secret: bool = False


_MAX_I32 = 2**31 - 1


class Settings(BaseSettings):
    """All settings of a server, checked. Made by `load`; a field's name is the setting's in lower case."""

    model_config = SettingsConfigDict(
        alias_generator=str.upper,
        case_sensitive=True,
        env_file_encoding=ENV_ENCODING,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        str_strip_whitespace=True,
        validate_default=False,
    )

    rpc_url: Annotated[
        tuple[str, ...],
        NoDecode,
        BeforeValidator(values.split),
        AfterValidator(values.websocket_urls),
        About(
            "Solana PubSub `ws(s)://…`; several, comma-separated, are read at once and merged. `http(s)://` is turned "
            "into `ws(s)://`, port 8899 into 8900",
            default="none",
            secret=True,
        ),
    ] = ()
    rpc_http_url: Annotated[
        str | None,
        AfterValidator(values.http_url),
        About(
            "HTTP JSON-RPC of the same node; derived: same host, path and query, `ws` → `http`, port 8900 → 8899, any "
            "other port kept. Beside `GEYSER_URL` alone: where gaps are healed and the cluster is asked for",
            default="from `RPC_URL`",
            secret=True,
        ),
    ] = None
    rpc_max_rps: Annotated[float, Gt(0), Le(100_000), About("budget of background reads", "requests/s")] = 5
    rpc_lookups_per_second: Annotated[
        float, Gt(0), Le(100_000), About("budget of the reads that clients cause", "requests/s")
    ] = 20
    rpc_proxy: Annotated[
        bool,
        About(
            "whether JSON-RPC requests at `POST /` that only the node can answer are passed on to it, within "
            "`RPC_LOOKUPS_PER_SECOND`: whoever reaches the port may then spend the node's quota"
        ),
    ] = False
    reconcile_seconds: Annotated[
        float,
        Ge(1),
        Le(86_400),
        About(
            "how often accounts with subscribers are looked at on the node: PubSub does not tell of closed accounts. "
            "More accounts than `RPC_MAX_RPS` allows for (100 a request) take longer; `/readyz` says how long",
            "seconds",
        ),
    ] = 60
    backfill: Annotated[
        Literal["subscribed", "known", "all"],
        About(
            "what is read again after an interruption of upstream, and at start: accounts with subscribers; then, in "
            "the background, `known`: every account in the database, `all`: every account of the program "
            "(getProgramAccounts), which at first fills the database"
        ),
    ] = "subscribed"
    rpc_max_watched: Annotated[
        int,
        Ge(0),
        Le(100_000),
        About(
            "subscribed accounts that each PubSub connection watches one by one (`accountSubscribe`), so that their "
            "closing is told at once; it doubles what the node sends of them",
            "accounts",
        ),
    ] = 100
    geyser_url: Annotated[
        str | None,
        AfterValidator(values.geyser_url),
        About(
            "Yellowstone gRPC `http(s)://host:port`, alone or beside `RPC_URL`; without a port 443, or 10000 for "
            "`http`. It costs less time than PubSub, and after a break it replays what was missed",
            default="none",
            secret=True,
        ),
    ] = None
    geyser_x_token: Annotated[
        str | None, AfterValidator(values.token), About("the `x-token` of `GEYSER_URL`", default="none", secret=True)
    ] = None
    geyser_compression: Annotated[
        Literal["off", "gzip"],
        About("whether the node may compress: `gzip` for a slow line, `off` for a third more updates a second"),
    ] = "off"
    geyser_max_watched: Annotated[
        int,
        Ge(0),
        Le(100_000),
        About(
            "subscribed accounts that the node is asked for one by one, so that it tells when they are closed; what "
            "the provider allows in a filter",
            "accounts",
        ),
    ] = 1_000
    commitment: Annotated[
        Literal["processed", "confirmed", "finalized"], About("how sure a state must be before it is streamed")
    ] = "confirmed"
    database_url: Annotated[
        str,
        AfterValidator(values.database_url),
        About(
            "`sqlite:p` and `sqlite://p` are relative paths, `sqlite:///p` an absolute one; `sqlite::memory:` keeps "
            "everything until the process ends; `?mode=` is accepted",
            secret=True,
        ),
    ] = "sqlite:account.db"
    database_max_connections: Annotated[int, Ge(1), Le(1000), About("readers' pool", "connections")] = 10
    retention_days: Annotated[float, Gt(0), Le(36_500), About("history older than this is deleted", "days")] = 7
    retention_rows_per_account: Annotated[
        int,
        Ge(0),
        Le(1_000_000_000),
        About("of each account only so many of the newest rows of history are kept", "rows", default="0 = no limit"),
    ] = 0
    disk_reserve_mb: Annotated[
        int,
        Ge(0),
        Le(_MAX_I32),
        About("below this free space history stops, the newest states go on being stored", "MB"),
    ] = 2048
    redis_url: Annotated[
        str,
        AfterValidator(values.redis_url),
        About(
            "`redis://`, `rediss://`, `unix://`, or `memory://` for the embedded cache. Not set and nothing answering "
            "there: the embedded cache, said once. Set and not answering: degraded, retried, said in `/readyz`",
            secret=True,
        ),
    ] = "redis://127.0.0.1:6379"
    cache_ttl_seconds: Annotated[int, Ge(1), Le(_MAX_I32), About("how long `account:{pubkey}` lives", "seconds")] = (
        3600
    )
    websocket_host: Annotated[
        str,
        AfterValidator(values.host),
        About("address to listen on. One that is not loopback is warned about at start: there is no authentication"),
    ] = "127.0.0.1"
    websocket_port: Annotated[
        int, Ge(0), Le(65535), About("one port for WebSocket and HTTP; 0 picks a free one and prints it")
    ] = 8080
    max_connections: Annotated[int, Ge(1), Le(1_000_000), About("clients at once; one more is closed with 1013")] = (
        20_000
    )
    max_connections_per_ip: Annotated[
        int, Ge(0), Le(1_000_000), About("the same per address", default="0 = no limit")
    ] = 0
    max_subscriptions: Annotated[int, Ge(1), Le(1_000_000), About("subscribed accounts of one connection")] = 10_000
    max_requests_per_second: Annotated[
        float,
        Gt(0),
        Le(1_000_000),
        About("requests of one connection, with a burst of 20,000", "requests/s"),
    ] = 100
    allowed_origins: Annotated[
        tuple[str, ...],
        NoDecode,
        BeforeValidator(values.split),
        AfterValidator(values.origins),
        About(
            "origins of web pages that may connect, comma-separated (`https://example.org`); others are refused. "
            "Clients that are no browser send none and are let in",
            default="any",
        ),
    ] = ()
    slow_consumer_seconds: Annotated[
        float, Gt(0), Le(86_400), About("a client that stays behind this long is closed with 4008", "seconds")
    ] = 60
    outbox_max_bytes: Annotated[
        ByteSize,
        Ge(65_536),
        Le(2**30),
        About(
            "above this a slow client gets the newest state of each account instead of every one; `1MiB` is accepted",
            "bytes",
            default="1 MiB",
        ),
    ] = ByteSize(2**20)
    stale_after_seconds: Annotated[
        float, Gt(0), Le(86_400), About("without a new slot for this long upstream counts as stale", "seconds")
    ] = 15
    compression: Annotated[
        Literal["off", "on"],
        About(
            "whether clients that offer permessage-deflate are sent updates compressed: less than half the traffic, "
            "for some 50 µs more of the server's time an update, however many clients there are"
        ),
    ] = "off"
    rust_log: Annotated[
        str,
        AfterValidator(values.directives),
        Field(validation_alias=AliasChoices("RUST_LOG", "LOG")),
        About(
            "comma-separated `level` or `module=level`, levels off, error, warn, info, debug, trace; "
            "`account_socket::websocket` and `account_socket.websocket` mean the same. `LOG` is another name for it"
        ),
    ] = "info"
    log_format: Annotated[
        Literal["console", "json"] | None,
        About("`console` or `json`, one object a line", default="console on a terminal, else json"),
    ] = None

    @property
    def rpc_http_urls(self) -> tuple[str, ...]:
        """The HTTP JSON-RPC URL beside each of `rpc_url`; without any, the one beside `geyser_url`, if given."""
        if not self.rpc_url:
            return (self.rpc_http_url,) if self.rpc_http_url else ()
        return tuple(self.rpc_http_url or derive_http_url(url) for url in self.rpc_url)

    @property
    def redis_url_given(self) -> bool:
        """Whether somebody chose `redis_url`, or it is only the default."""
        return "redis_url" in self.model_fields_set

    @property
    def max_connections_given(self) -> bool:
        """Whether somebody chose `max_connections`, or it is only the default."""
        return "max_connections" in self.model_fields_set

    @property
    def secrets(self) -> frozenset[str]:
        """The token, and the keys and passwords inside the URLs, for `logs.configure`."""
        urls = (*self.rpc_url, *self.rpc_http_urls, self.redis_url, self.geyser_url or "")
        token = {self.geyser_x_token} if self.geyser_x_token else set()
        return frozenset(token).union(*map(secrets_of, urls))

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for row in rows():
            yield row.field, "***" if row.about.secret else getattr(self, row.field)


class _FlagsOnly(Settings):
    """Settings that nothing but flags can change."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)


@dataclass(frozen=True)
class Row:
    """One line of the table: `field` of `Settings`, its public `name`, and the flag `--name`."""

    TYPES: ClassVar = {int: "integer", float: "number", ByteSize: "size", str: "text"}

    field: str
    about: About
    info: FieldInfo

    @property
    def name(self) -> str:
        return self.field.upper()

    @property
    def flag(self) -> str:
        return "--" + self.field.replace("_", "-")

    @property
    def names(self) -> tuple[str, ...]:
        """The names that the environment may use, the preferred one first."""
        alias = self.info.validation_alias
        return tuple(str(name) for name in alias.choices) if isinstance(alias, AliasChoices) else (self.name,)

    @property
    def default(self) -> str:
        return self.about.default or str(self.info.default)

    @property
    def values(self) -> str:
        """What is accepted, in a word or two."""
        annotation = self.info.annotation
        if annotation in self.TYPES:
            return self.about.unit or self.TYPES[annotation]
        choices = re.findall(r"'(\w+)'", str(annotation))
        return ", ".join(choices) or ("list" if "tuple" in str(annotation) else "text")


def rows() -> Iterator[Row]:
    """Yield the table of settings, in its order."""
    for field, info in Settings.model_fields.items():
        about = next(item for item in info.metadata if isinstance(item, About))
        yield Row(field, about, info)


def load(
    flags: Mapping[str, str] | None = None, *, env_file: Path | None = ENV_FILE, flags_only: bool = False
) -> Settings:
    """
    Collect and check the settings.

    Args:
        flags: values from the command line by public name (`RPC_URL`); they win.
        env_file: a `.env`; it may be missing.
        flags_only: neither the environment nor `env_file` counts.
    Raises:
        SettingsError: one line for each bad value: its name, the value (secrets as `***`), where it came from and
            what is wrong.
    """
    flags = {name: value for name, value in (flags or {}).items() if value.strip()}
    env_file = None if flags_only else env_file
    _read_env_file(env_file, tell=True)
    arguments: dict[str, Any] = {**flags, "_env_file": env_file}
    try:
        return _FlagsOnly(**arguments) if flags_only else Settings(**arguments)
    except ValidationError as exc:
        wrong = [(str(error["loc"][0]), error["msg"]) for error in exc.errors()]
    # Outside the handler: pydantic's error holds the values, and a traceback would print them.
    raise SettingsError(
        "\n".join(
            _problem(name, message, given(name, flags, env_file=env_file, flags_only=flags_only))
            for name, message in wrong
        )
    )


@dataclass(frozen=True)
class Given:
    """A value as somebody gave it, not checked, and where: a flag, an environment variable, a `.env` by its path."""

    value: str
    origin: str


def given(
    name: str, flags: Mapping[str, str] | None = None, *, env_file: Path | None = ENV_FILE, flags_only: bool = False
) -> Given | None:
    """Return what `load` takes for the setting `name`, or None where its default holds."""
    row = next(row for row in rows() if name in row.names)
    sources: list[tuple[Mapping[str, str | None], str]] = [(flags or {}, f"the flag {row.flag}")]
    if not flags_only:
        sources.append((os.environ, f"the environment variable {row.name}"))
        sources.append((_read_env_file(env_file), str(env_file and env_file.resolve())))
    for source, origin in sources:
        for alias in row.names:
            if value := (source.get(alias) or "").strip():
                return Given(value, origin.replace(row.name, alias))
    return None


def _read_env_file(env_file: Path | None, *, tell: bool = False) -> dict[str, str | None]:
    """
    Return what a `.env` holds, nothing where there is none.

    Args:
        tell: write a line to stderr for each line that is no assignment, without what stands in it.
    Raises:
        SettingsError: it is not a file, it is not text, or no line of it is an assignment.
    """
    text = "" if env_file is None else _text_of(env_file)
    if env_file is None or not text:
        return {}
    bindings = list(parse_stream(StringIO(text)))
    wrong = [
        f"{env_file.resolve()}, line {each.original.line}: is not NAME=VALUE"
        for each in bindings
        if each.error or (each.key and each.value is None)
    ]
    if wrong and not any(each.key and each.value is not None for each in bindings):
        raise SettingsError(
            "\n".join(wrong[:MAX_TOLD]), hint="nothing in this file is a setting: look at .env.example"
        )
    for line in wrong[:MAX_TOLD] if tell else ():
        log.warning("%s; left out", line)
    return dotenv_values(stream=StringIO(text))


def _text_of(env_file: Path) -> str:
    """Return what stands in a `.env`, "" where there is none. Raises SettingsError."""
    try:
        # Not `is_file`: what is there and cannot be read must not count as absent.
        mode = env_file.stat().st_mode
        if stat.S_ISREG(mode):
            return env_file.read_text(ENV_ENCODING)
    except FileNotFoundError:
        if not env_file.is_symlink():
            return ""
        raise SettingsError(f"{env_file}: is a link to nothing") from None
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{env_file}: cannot be read: {getattr(exc, 'strerror', None) or exc}") from exc
    if stat.S_ISCHR(mode):  # /dev/null, put there to have none
        return ""
    raise SettingsError(f"{env_file}: is {'a directory' if stat.S_ISDIR(mode) else 'not a file'}")


def _problem(name: str, message: str, found: Given | None) -> str:
    row = next(row for row in rows() if name in row.names)
    value, origin = (found.value, found.origin) if found else (row.default, "the default")
    shown = _scrubbed(value) if row.about.secret else repr(value)
    return f"{row.name}={shown} (from {origin}): {message.removeprefix('Value error, ')}"


def _scrubbed(value: str) -> str:
    if value.startswith("sqlite:"):
        return repr(value)
    return ",".join(scrub_url(url) if "://" in url else "***" for url in value.split(","))
