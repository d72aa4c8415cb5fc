from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.samples import KEY_A

from account_socket.protocol.messages import Deselect, Refusal, Subscribe, Unsubscribe, parse
from account_socket.protocol.selection import MAX_CONDITIONS, MAX_FIELDS, MAX_VALUES, Select

KEYS = ("account_type", "program", "where", "fields", "mode", "max_rate_ms", "delivery", "snapshot", "pubkeys", "sub")
WORDS = st.sampled_from(["full", "diff", "every", "latest", "Pool", "a.0.b", "a..b", "", KEY_A, "x" * 300])
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["subscribe", "unsubscribe"]), st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4))
def test_whatever_a_request_holds_it_is_read_or_refused(action: str, fields: dict[str, Any]) -> None:
    """What is read is within the limits, is one shape, and can be listed as JSON; nothing raises."""
    request = parse(json.dumps({"action": action, "id": 1, **fields}))
    assert isinstance(request, (Subscribe, Select, Unsubscribe, Deselect, Refusal))
    if isinstance(request, Select):
        assert len(request.where) <= MAX_CONDITIONS
        assert len(request.fields) <= MAX_FIELDS
        assert all(1 <= len(values) <= MAX_VALUES for _, values in request.where)
        assert bool(request.pubkeys) != bool(
            request.account_type is not None or request.program is not None or request.where
        )
        assert [bool(request.fields), request.mode == "diff", request.max_rate_ms > 0].count(True) <= 1
        assert json.loads(json.dumps(request.told(1)))["sub"] == 1


def test_a_request_is_read_whole() -> None:
    """Every key of a numbered subscription has its place."""
    text = """{"action":"subscribe","id":"a","account_type":"Pool","program":"p","where":{"b":[1,null],"a.0":"x"},
        "fields":["d","c","d"],"delivery":"every","snapshot":false}"""
    assert parse(text) == Select(
        id="a",
        account_type="Pool",
        program="p",
        where=(("a.0", ("x",)), ("b", (1, None))),
        fields=("c", "d"),
        delivery="every",
        snapshot=False,
    )
    assert parse('{"action":"unsubscribe","sub":4}') == Deselect(None, 4)


def test_a_condition_that_is_said_twice_is_refused() -> None:
    """A path twice in `where` would be read as the last of both."""
    refused = parse('{"action":"subscribe","where":{"a":1,"a":2}}')
    assert isinstance(refused, Refusal)
    assert "twice" in refused.message


def test_the_oldest_form_of_a_request_takes_no_new_keys() -> None:
    """Beside a `pubkey` without `id`, other keys were always ignored."""
    assert parse(f'{{"action":"subscribe","pubkey":"{KEY_A}","mode":"diff"}}') == Subscribe(None, (KEY_A,))
    assert parse(f'{{"action":"unsubscribe","pubkey":"{KEY_A}","sub":7}}') == Unsubscribe(None, (KEY_A,))
