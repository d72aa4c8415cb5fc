"""Stars in place of our keys and tokens, where a node repeats them. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import quote, unquote

SHORTEST_SECRET = 8
"""Shorter ones may be ordinary words, or stand in base64 by chance."""

_SHORT_ESCAPES = {"\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}
_BACKSLASHES = rb"\\{1,4}"
"""JSON in a JSON string doubles them; this is enough for three levels."""


class Stars:
    """
    Finds secrets of at least SHORTEST_SECRET characters in what a node sends.

    They are found as they are, percent-encoded or decoded, and as JSON escapes may spell them (`\\/`, `\\u004b`).
    """

    def __init__(self, secrets: Collection[str]) -> None:
        plain = {form for secret in secrets for form in (secret, quote(secret, safe=""), unquote(secret))}
        plain = {form for form in plain if len(form) >= SHORTEST_SECRET}
        escaped = {form.replace("\\", "\\\\").replace('"', '\\"').replace("/", "\\/") for form in plain}
        self._forms = sorted((form.encode() for form in plain | escaped), key=len, reverse=True)
        spellings = [b"".join(map(_spellings, form)) for form in sorted(plain, key=len, reverse=True)]
        self._spelled = re.compile(b"|".join(spellings))

    def over(self, message: bytes) -> bytes:
        """Return `message` with as many stars as a secret has bytes in its place."""
        if self._forms and b"\\u" in message:  # few messages: this search is slower than those below
            message = self._spelled.sub(lambda found: b"*" * len(found[0]), message)
        for form in self._forms:
            if form in message:
                message = message.replace(form, b"*" * len(form))
        return message


def _spellings(character: str) -> bytes:
    """Return a pattern for a character as JSON strings may spell it."""
    units = character.encode("utf-16-be")
    numbers = b"".join(_BACKSLASHES + b"u" + units[i : i + 2].hex().encode() for i in range(0, len(units), 2))
    plain = re.escape(character.encode())
    short = re.escape(_SHORT_ESCAPES[character].encode()) if character in _SHORT_ESCAPES else plain
    return b"(?:(?i:%b)|%b%b|%b)" % (numbers, _BACKSLASHES, short, plain)
