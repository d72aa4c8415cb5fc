from __future__ import annotations

import pytest

from account_socket.endpoints import Endpoint, derive_http_url, is_loopback, normalize_ws_url, secrets_of
from account_socket.errors import SettingsError


@pytest.mark.parametrize(
    ("url", "ws_url"),
    [
        ("ws://127.0.0.1:8900", "ws://127.0.0.1:8900"),
        ("ws://node:8899", "ws://node:8899"),
        ("http://node:8899", "ws://node:8900"),
        ("HTTP://node:8899/", "ws://node:8900/"),
        ("https://node:8899/path?k=v", "wss://node:8900/path?k=v"),
        ("https://node/?api-key=K", "wss://node/?api-key=K"),
        ("http://node:9000", "ws://node:9000"),
        ("http://user:pw@[::1]:8899/x", "ws://user:pw@[::1]:8900/x"),
        (" wss://node/#part ", "wss://node/"),
    ],
)
def test_a_pubsub_url_is_made_of_any_node_url(url: str, ws_url: str) -> None:
    """http becomes ws and its port 8899 becomes 8900; everything else stays, but for the fragment."""
    assert normalize_ws_url(url) == ws_url


@pytest.mark.parametrize(
    ("ws_url", "http_url"),
    [
        ("ws://127.0.0.1:8900", "http://127.0.0.1:8899"),
        ("wss://node/?api-key=K", "https://node/?api-key=K"),
        ("wss://user:pw@node:8900/path/", "https://user:pw@node:8899/path/"),
        ("ws://[::1]:8900", "http://[::1]:8899"),
        ("ws://node:9000", "http://node:9000"),
        ("http://node:8900", "http://node:8900"),
    ],
)
def test_the_http_url_lies_beside_the_pubsub_url(ws_url: str, http_url: str) -> None:
    """ws becomes http and its port 8900 becomes 8899; host, path and query stay."""
    assert derive_http_url(ws_url) == http_url


@pytest.mark.parametrize(
    "url", ["", "node", "node:8900", "ftp://node", "ws://", "ws://:8900", "ws://node:99999", "ws://["]
)
def test_what_is_no_node_url_is_refused(url: str) -> None:
    """Without one of the four schemes, a host and a possible port there is no URL."""
    for turn in (normalize_ws_url, derive_http_url):
        with pytest.raises(SettingsError):
            turn(url)


def test_a_refusal_keeps_the_secret() -> None:
    """The message of a refused URL is scrubbed."""
    with pytest.raises(SettingsError) as caught:
        normalize_ws_url("ftp://user:hunter22@node/?api-key=hunter22")
    assert "hunter22" not in str(caught.value)


URL = "wss://user:p%40ssw0rd@node:8900/0123456789abcdef0123/v1?api-key=K3Y-of-mine&v=2"


def test_an_endpoint_shows_no_secret() -> None:
    """str, repr and label show host and port, and no secret."""
    endpoint = Endpoint(URL)
    for text in (str(endpoint), repr(endpoint), endpoint.label, f"{endpoint}"):
        assert "node:8900" in text
        assert not any(secret in text for secret in ("ssw0rd", "0123456789abcdef", "K3Y"))


@pytest.mark.parametrize(
    "secret", [URL, "K3Y-of-mine", "p%40ssw0rd", "p@ssw0rd", "0123456789abcdef0123", "dXNlcjpwQHNzdzByZA=="]
)
def test_foreign_text_is_scrubbed(secret: str) -> None:
    """Each secret is taken out of a text, as it stands in the URL, decoded, and as Basic authorization."""
    scrubbed = Endpoint(URL).scrub(f"cannot use <{secret}> here")
    assert secret not in scrubbed
    assert scrubbed.startswith("cannot use <")
    assert scrubbed.endswith("> here")


@pytest.mark.parametrize(
    ("url", "text", "concealed"),
    [
        (URL, f'{{"a":"{URL}","b":1}}', '{"a":"***","b":1}'),
        ("https://rpc.example.com/v2/S3cretKey99?k=a%2Fbcd", "at rpc.example.com or a/bcd", "at *** or ***"),
        ("https://rpc.example.com/v2/S3cretKey99?k=a%2Fbcd", "POST /v2/S3cretKey99?k=a%2Fbcd: no", "POST *** no"),
        ("http://node:8899/rpc", "node is behind, says node:8899/rpc", "node is behind, says ***"),
        ("http://[::1]:8899", "WS://[::1]:8900/x, [::1]", "*** ***"),
        ("http://10.0.0.1", "x" * 1000 + " 10.0.0.1", "x" * 1000 + " ***"),
    ],
)
def test_concealed_text_names_no_node(url: str, text: str, concealed: str) -> None:
    """Neither secrets nor host and path are left, and the text is not cut; a host that is a plain word may stay."""
    assert Endpoint(url).conceal(text) == concealed


def test_scrubbed_text_is_short() -> None:
    """A long text of the node is cut."""
    assert len(Endpoint("ws://node").scrub("x" * 10_000)) < 400


def test_short_values_are_no_secrets() -> None:
    """A value of one or two characters is not taken for a secret: it would blank out every text."""
    assert secrets_of("ws://node/?v=2") == set()


@pytest.mark.parametrize(
    ("url", "loopback"),
    [("ws://localhost:1", True), ("ws://127.1.2.3", True), ("ws://[::1]:1", True), ("ws://node", False), ("x", False)],
)
def test_loopback(url: str, loopback: bool) -> None:
    """Only this machine's own names and addresses are loopback."""
    assert is_loopback(url) is loopback


def test_a_secret_that_is_cut_short_is_scrubbed() -> None:
    """A node that repeats the key where the text is cut does not give its beginning away."""
    endpoint = Endpoint("wss://host/?api-key=SECRETKEYabcdefghijklmnopqrstuvwxyz")
    assert endpoint.scrub("x SECRETKEYabcdefgh") == "x ***"
    assert endpoint.scrub("SECRETKEYab…, SECRETKEYabcdefghijklmnopqrstuvwxyz") == "***…, ***"
