"""Settings: where they come from, what they may be, and that no secret is told."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest
from hypothesis import given as hypothesis_given
from hypothesis import strategies as st

from account_socket.errors import SettingsError
from account_socket.settings import Settings, given, load, rows

KEY = "0f9e8d7c-key"
SEED_ENV = """\
# Required: Solana RPC endpoint with Geyser support
RPC_URL=wss://mainnet.example.com/?api-key=YOUR_API_KEY

# Required: Database URL
DATABASE_URL=sqlite:account.db

REDIS_URL=redis://127.0.0.1:6379
WEBSOCKET_HOST=127.0.0.1
WEBSOCKET_PORT=8080
DATABASE_MAX_CONNECTIONS=10
RUST_LOG=info,account_socket=debug
"""


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for row in rows():
        for name in row.names:
            monkeypatch.delenv(name, raising=False)


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    return tmp_path / ".env"


def refusal(flags: dict[str, str], env_file: Path | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        load(flags, env_file=env_file)
    assert caught.value.__cause__ is None
    assert KEY not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


def test_seed_env_file_works_unchanged(env_file: Path) -> None:
    """The `.env` that the first server documented gives the values it names."""
    env_file.write_text(SEED_ENV)
    settings = load(env_file=env_file)
    assert settings.rpc_url == ("wss://mainnet.example.com/?api-key=YOUR_API_KEY",)
    assert settings.rpc_http_urls == ("https://mainnet.example.com/?api-key=YOUR_API_KEY",)
    assert settings.database_url == "sqlite:account.db"
    assert (settings.websocket_host, settings.websocket_port) == ("127.0.0.1", 8080)
    assert settings.database_max_connections == 10
    assert settings.rust_log == "info,account_socket=debug"
    assert settings.redis_url_given


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("RETENTION_DAYS=3", "retention_days", 3),
        ("RETENTION_DAYS=3 # days", "retention_days", 3),
        ("RETENTION_DAYS = 3", "retention_days", 3),
        ('RETENTION_DAYS="3"', "retention_days", 3),
        ("RETENTION_DAYS='3'  # days", "retention_days", 3),
        ("export RETENTION_DAYS=3", "retention_days", 3),
        ("\ufeffRETENTION_DAYS=3", "retention_days", 3),
        ("RETENTION_DAYS=", "retention_days", 7),
        ('RETENTION_DAYS=""', "retention_days", 7),
        ("#RETENTION_DAYS=3", "retention_days", 7),
        ("a line that is no assignment\nRETENTION_DAYS=3", "retention_days", 3),
        ("UNKNOWN=1\nRETENTION_DAYS=3", "retention_days", 3),
        ("RETENTION_DAYS=3\r\nRPC_MAX_RPS=4\r\n", "rpc_max_rps", 4),
        ("OUTBOX_MAX_BYTES=2MiB", "outbox_max_bytes", 2 * 2**20),
        ("OUTBOX_MAX_BYTES=65536", "outbox_max_bytes", 65536),
        (
            "ALLOWED_ORIGINS=https://A.example, http://b.example/",
            "allowed_origins",
            ("https://a.example", "http://b.example"),
        ),
        ("ALLOWED_ORIGINS=*", "allowed_origins", ()),
        ("WEBSOCKET_HOST=[::1]", "websocket_host", "::1"),
        ("LOG=debug", "rust_log", "debug"),
        ("LOG=debug\nRUST_LOG=warn", "rust_log", "warn"),
        ("COMPRESSION=on", "compression", "on"),
        ("RPC_URL=http://n:8899, wss://m/?k=1,,http://n:8899", "rpc_url", ("ws://n:8900", "wss://m/?k=1")),
    ],
)
def test_env_file_line(env_file: Path, line: str, name: str, value: object) -> None:
    """A line of `.env` gives its setting this value."""
    env_file.write_text(line + "\n")
    assert getattr(load(env_file=env_file), name) == value


def test_precedence(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag beats the environment, which beats `.env`, which beats the default; an empty one counts as not set."""
    assert load(env_file=env_file).websocket_port == 8080
    env_file.write_text("WEBSOCKET_PORT=1")
    assert load(env_file=env_file).websocket_port == 1
    monkeypatch.setenv("WEBSOCKET_PORT", "2")
    assert load(env_file=env_file).websocket_port == 2
    assert load({"WEBSOCKET_PORT": "3"}, env_file=env_file).websocket_port == 3
    monkeypatch.setenv("WEBSOCKET_PORT", "")
    assert load({"WEBSOCKET_PORT": " "}, env_file=env_file).websocket_port == 1


def test_flags_only(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `flags_only` neither the environment nor `.env` counts, not even a bad value there."""
    env_file.write_text("DATABASE_URL=nonsense")
    monkeypatch.setenv("WEBSOCKET_PORT", "nonsense")
    settings = load({"REDIS_URL": "memory://"}, env_file=env_file, flags_only=True)
    assert (settings.database_url, settings.websocket_port, settings.redis_url) == (
        "sqlite:account.db",
        8080,
        "memory://",
    )


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("WEBSOCKET_PORT", "70000", "'70000'"),
        ("WEBSOCKET_PORT", "http", "'http'"),
        ("COMMITMENT", "final", "'processed', 'confirmed' or 'finalized'"),
        ("RPC_MAX_RPS", "0", "greater than 0"),
        ("RPC_MAX_RPS", "nan", "RPC_MAX_RPS"),
        ("RPC_MAX_RPS", "inf", "RPC_MAX_RPS"),
        ("RETENTION_DAYS", "-1", "greater than 0"),
        ("OUTBOX_MAX_BYTES", "1 parsec", "parsec"),
        ("WEBSOCKET_HOST", "127.0.0.1:80", "WEBSOCKET_PORT"),
        ("ALLOWED_ORIGINS", "example.org", "'example.org' is not an origin"),
        ("RUST_LOG", "info,loud", "'loud'"),
        ("LOG_FORMAT", "xml", "'console' or 'json'"),
        ("RPC_URL", f"ftp://user:{KEY}@host/?k={KEY}", "ftp://***@host/?k=***"),
        ("RPC_URL", f"wss://:1/?k={KEY}", "no host"),
        ("RPC_URL", f"wss://host:99999/?k={KEY}", "***"),
        ("RPC_URL", KEY, "RPC_URL=*** "),
        ("RPC_HTTP_URL", KEY, "RPC_HTTP_URL=*** "),
        ("REDIS_URL", f"http://:{KEY}@host", "http://***@host"),
        ("REDIS_URL", f"redis://:{KEY}@host/name", "not a number"),
        ("REDIS_URL", f"redis://:{KEY}@host:99999", "REDIS_URL"),
        ("REDIS_URL", "unix://", "no socket"),
        ("DATABASE_URL", "account.db", "this is not a database URL"),
        ("DATABASE_URL", f"postgresql://u:{KEY}@host/db", "PostgreSQL is not available in this version"),
        ("GEYSER_URL", f"https://host:443/?token={KEY}", "belongs into GEYSER_X_TOKEN"),
        ("GEYSER_URL", f"https://host:443/{KEY}{KEY}", "https://host:443/***"),
        ("GEYSER_URL", "grpc://host:443", "is not http(s)://host:port"),
        ("GEYSER_URL", "http://host:99999", "GEYSER_URL"),
        ("GEYSER_X_TOKEN", f"{KEY} {KEY}", "GEYSER_X_TOKEN=*** "),
        ("GEYSER_COMPRESSION", "zstd", "'off' or 'gzip'"),
        ("GEYSER_MAX_WATCHED", "-1", "greater than or equal to 0"),
        ("COMPRESSION", "gzip", "'off' or 'on'"),
    ],
)
def test_bad_value(env_file: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str) -> None:
    """A bad value is refused with its name, the value without secrets, where it came from, and what is wrong."""
    flag = refusal({name: value})
    assert flag.startswith(f"{name}=")
    assert f"the flag --{name.lower().replace('_', '-')}" in flag
    assert told in flag

    env_file.write_text(f"{name}={value}")
    assert str(env_file) in refusal({}, env_file)

    monkeypatch.setenv(name, value)
    assert f"the environment variable {name}" in refusal({}, env_file)


def test_all_bad_values_are_told_at_once(env_file: Path) -> None:
    """Each bad value has a line of its own."""
    env_file.write_text("WEBSOCKET_PORT=a\nCOMMITMENT=b\nLOG=c")
    told = refusal({}, env_file).splitlines()
    assert [line.partition("=")[0] for line in told] == ["COMMITMENT", "WEBSOCKET_PORT", "RUST_LOG"]


@pytest.mark.parametrize("content", [b"RPC_URL=\xff\xfe", b"\x80"])
def test_env_file_that_cannot_be_read(env_file: Path, content: bytes) -> None:
    """A `.env` that is not UTF-8 is refused by its path."""
    env_file.write_bytes(content)
    with pytest.raises(SettingsError, match=r"\.env: cannot be read"):
        load(env_file=env_file)


def test_secrets_are_not_shown() -> None:
    """Neither `repr` nor `str` of the settings holds a key or a password, and `secrets` names each."""
    settings = load(
        {
            "RPC_URL": f"wss://host/?api-key={KEY}",
            "REDIS_URL": "redis://:pa55word@host",
            "RPC_HTTP_URL": f"https://h/{KEY}{KEY}",
        },
        env_file=None,
    )
    assert KEY not in repr(settings) + str(settings)
    assert "pa55word" not in repr(settings) + str(settings)
    assert settings.secrets >= {KEY, "pa55word", KEY + KEY}


def test_http_url_is_shared_when_given() -> None:
    """`RPC_HTTP_URL` is asked for every upstream; without it each has its own."""
    flags = {"RPC_URL": "ws://a:8900,wss://b"}
    assert load(flags, env_file=None).rpc_http_urls == ("http://a:8899", "https://b")
    assert load({**flags, "RPC_HTTP_URL": "http://c"}, env_file=None).rpc_http_urls == ("http://c", "http://c")
    alone = {"GEYSER_URL": "http://g:1"}
    assert load(alone, env_file=None).rpc_http_urls == ()
    assert load({**alone, "RPC_HTTP_URL": "http://c"}, env_file=None).rpc_http_urls == ("http://c",)


def test_redis_default_is_not_a_choice() -> None:
    """The default Redis URL counts as not given, the same URL in a flag as given."""
    assert not load(env_file=None).redis_url_given
    assert load({"REDIS_URL": "redis://127.0.0.1:6379"}, env_file=None).redis_url_given


def test_given_tells_value_and_origin(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`given` finds what `load` would take, with its origin, and None for a default."""
    assert given("RPC_URL", env_file=env_file) is None
    env_file.write_text("RPC_URL=ws://a\nLOG=debug")
    found = given("RPC_URL", env_file=env_file)
    assert found is not None
    assert (found.value, found.origin) == ("ws://a", str(env_file))
    monkeypatch.setenv("LOG", "warn")
    found = given("RUST_LOG", env_file=env_file)
    assert found is not None
    assert (found.value, found.origin) == ("warn", "the environment variable LOG")


def test_every_setting_is_explained() -> None:
    """Each setting of this version has a help text, and its default is accepted as a flag."""
    for row in rows():
        assert row.about.help
        if row.info.default not in ((), None):
            name = row.name
            assert getattr(load({name: str(row.info.default)}, env_file=None), row.field) == row.info.default


def test_settings_are_frozen() -> None:
    """Nobody changes a setting after it was checked."""
    settings = Settings(_env_file=None)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="frozen"):
        settings.websocket_port = 1  # type: ignore[misc]


@hypothesis_given(name=st.sampled_from([row.name for row in rows()]), value=st.text(max_size=40))
def test_any_text_is_a_value_or_a_settings_error(name: str, value: str) -> None:
    """Whatever text a setting is given, it is accepted or refused with its name."""
    try:
        load({name: value}, env_file=None, flags_only=True)
    except SettingsError as error:
        assert str(error).startswith(f"{name}=")  # noqa: PT017  (both outcomes are right)
