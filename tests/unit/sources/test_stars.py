"""Our keys in what a node sends."""

from __future__ import annotations

import json
import re
from urllib.parse import unquote

from hypothesis import given
from hypothesis import strategies as st

from account_socket.sources.stars import Stars

OTHERS = st.characters(codec="utf-8", exclude_characters="[]")


@given(st.data())
def test_no_spelling_in_json_hides_a_secret(data: st.DataObject) -> None:
    """A secret is found whatever of it JSON escapes spell, also in a string in a string; JSON stays JSON."""
    secret = data.draw(st.text(OTHERS, min_size=8, max_size=20).filter(lambda text: text == unquote(text)))
    spellings = [data.draw(st.sampled_from([json.dumps(each)[1:-1], escaped(each)])) for each in secret]
    place = data.draw(st.integers(0, len(secret) - 1), label="place")
    spellings[place] = escaped(secret[place])
    spelled = "".join(spellings)
    told = f'"[{spelled}]"'
    if data.draw(st.booleans(), label="nested"):
        told = json.dumps(told)
    found = Stars({secret, "another-secret"}).over(told.encode())
    text = json.loads(found)
    if text.startswith('"'):
        text = json.loads(text)
    assert re.fullmatch(r"\[\*+\]", text), (secret, told, found)


def escaped(character: str) -> str:
    units = character.encode("utf-16-be").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4)).swapcase().replace("\\U", "\\u")


def test_other_escapes_stay() -> None:
    """What is no secret stays byte for byte, escapes included, also where there are no secrets."""
    message = rb'{"m":"\u004b\\u004b plain-api-ke\u0079s"}'
    assert Stars(()).over(message) == message
    assert Stars({"short", "plain-api-key5"}).over(message) == message
