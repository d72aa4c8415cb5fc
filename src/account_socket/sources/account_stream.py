"""
The answer to getProgramAccounts or a page of getProgramAccountsV2, read while it arrives. Pure.

An answer of gigabytes takes the memory of a chunk and of one account. The shapes that nodes answer with, where […]
is the list of `{"pubkey":…,"account":…}`:

    {"result":[…]}                                              without a context (old nodes)
    {"result":{"context":{"slot":n},"value":[…]}}               getProgramAccounts
    {"result":{"accounts":[…],"paginationKey":"…"}}             a page without a context
    {"result":{"context":{"slot":n},"value":{"accounts":[…],"paginationKey":"…"}}}

Members may come in any order, each once, and there is one list; the context's slot is known from where it stands on.
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Generator
from json import JSONDecoder
from typing import Any

from account_socket.errors import RpcError
from account_socket.model import MAX_I64
from account_socket.sources.account_json import show
from account_socket.sources.rpc_answer import nonsense

MAX_ITEM_CHARS = 15 * 1024 * 1024
"""The largest account, 10 MiB, is 14 million characters of base64."""

MAX_KEY_CHARS = 4_096
"""Of a paginationKey; it is sent back as it came."""

Path = tuple[str, ...]
Parsing = Generator[None, None, Any]
"""Yields where it needs more text."""

_LISTS = frozenset({("result",), ("result", "value"), ("result", "accounts"), ("result", "value", "accounts")})
_OBJECTS = frozenset({("result",), ("result", "value")})
_KEPT = frozenset({
    ("id",),
    ("error",),
    ("result", "context"),
    *((*path, name) for path in _OBJECTS for name in ("paginationKey", "nextCursor", "hasMore")),
})  # fmt: skip
_BLANK = " \t\r\n"
_AFTER_NUMBER = frozenset(_BLANK + ",]}")

_scan = JSONDecoder().raw_decode


class AccountStream:
    """Takes chunks, gives accounts; what the node says beside them is there once `complete`."""

    def __init__(self) -> None:
        self._decode = getincrementaldecoder("utf-8")().decode
        self._chunks: list[str] = []
        self._waiting = 0
        self._patience = 0
        self._text = ""
        self._at = 0
        self._ended = False
        self._items: list[Any] = []
        self._kept: dict[Path, Any] = {}
        self._parsing = self._answer()
        self.complete = False
        self.has_list = False

    def feed(self, chunk: bytes) -> list[Any]:
        """
        Take a chunk; return the accounts that are whole by now, as parsed JSON, not checked.

        Raises:
            RpcError: this is no JSON, or one account is larger than any can be.
        """
        try:
            text = self._decode(chunk)
        except UnicodeDecodeError:
            raise nonsense("the node answered no UTF-8") from None
        self._chunks.append(text)
        self._waiting += len(text)
        # A large account is tried again only when it has grown by a part of itself: scanning stays linear.
        return [] if self._waiting < self._patience else self._advance()

    def finish(self) -> list[Any]:
        """Take the end of the answer; return the last accounts. Raises RpcError: it broke off."""
        self._ended = True
        items = self._advance()
        if not self.complete:
            raise RpcError("the node's answer broke off", code=0, retryable=True)
        return items

    @property
    def slot(self) -> int | None:
        """The context slot, None where none was told (so far). Raises RpcError: it makes no sense."""
        context = self._kept.get(("result", "context"))
        if context is None:
            return None
        slot = context.get("slot") if isinstance(context, dict) else None
        if type(slot) is not int or not 0 <= slot <= MAX_I64:
            raise nonsense(f"the node answered the context slot {show(slot)}")
        return slot

    @property
    def next_key(self) -> str | None:
        """What the next page is asked with, None after the last one. Raises RpcError: it makes no sense."""
        kept = {path[-1]: value for path, value in self._kept.items() if path[0] == "result"}
        key = kept.get("paginationKey") or (kept.get("nextCursor") if kept.get("hasMore") is not False else None)
        if not key:
            return None
        if not isinstance(key, str) or len(key) > MAX_KEY_CHARS:
            raise nonsense(f"the node answered the paginationKey {show(key)}")
        return key

    @property
    def envelope(self) -> dict[str, Any]:
        """The answer without what lay in its result: id, and error or an empty result."""
        envelope = {path[0]: value for path, value in self._kept.items() if len(path) == 1}
        return envelope if not self.has_list else {"result": [], **envelope}

    # ---- parsing -------------------------------------------------------------------------------------------

    def _advance(self) -> list[Any]:
        self._text = "".join((self._text[self._at :], *self._chunks))
        self._at = self._waiting = 0
        self._chunks.clear()
        if not self.complete:
            try:
                next(self._parsing)
            except StopIteration:
                self.complete = True
        rest = len(self._text) - self._at
        if self.complete:
            self._at += rest
        elif rest > MAX_ITEM_CHARS:
            raise nonsense(f"the node answered no JSON, or an account of over {MAX_ITEM_CHARS} characters")
        self._patience = rest // 4
        items, self._items = self._items, []
        return items

    def _answer(self) -> Parsing:
        if (yield from self._peek()) != "{":
            raise nonsense(f"the node answered no JSON-RPC: {show(self._text[:60])}")
        yield from self._object(())

    def _object(self, path: Path) -> Parsing:
        self._at += 1
        if (yield from self._peek()) == "}":
            self._at += 1
            return
        going_on = True
        while going_on:
            yield from self._peek()
            key = yield from self._value()
            if not isinstance(key, str) or (yield from self._peek()) != ":":
                raise nonsense(f"the node answered no JSON: {show(key)} is no member's name")
            self._at += 1
            yield from self._member((*path, key))
            going_on = yield from self._goes_on("}")

    def _member(self, path: Path) -> Parsing:
        first = yield from self._peek()
        if first == "[" and path in _LISTS:
            if self.has_list:
                raise nonsense("the node answered a second list")
            self.has_list = True
            yield from self._list()
        elif first == "{" and path in _OBJECTS:
            yield from self._object(path)
        else:
            value = yield from self._value()
            if path in _KEPT:
                if path in self._kept:  # accounts were taken at what it said first
                    raise nonsense(f"the node answered {'.'.join(path)} twice")
                self._kept[path] = value

    def _list(self) -> Parsing:
        self._at += 1
        if (yield from self._peek()) == "]":
            self._at += 1
            return
        going_on = True
        while going_on:
            yield from self._peek()
            item = yield from self._value()
            self._items.append(item)
            going_on = yield from self._goes_on("]")

    def _goes_on(self, end: str) -> Parsing:
        mark = yield from self._peek()
        if mark not in {",", end}:
            raise nonsense(f"the node answered no JSON: {show(mark)} for a comma")
        self._at += 1
        return mark == ","

    def _value(self) -> Parsing:
        """Return the value that begins here, whatever it is, once it is whole."""
        while True:
            try:
                value, end = _scan(self._text, self._at)
            except ValueError:
                pass  # not whole yet, or no JSON: then it outgrows MAX_ITEM_CHARS, or the answer ends
            except RecursionError:
                raise nonsense("the node answered JSON that is nested too deep") from None
            else:
                if self._is_whole(value, end):
                    self._at = end
                    return value
            yield from self._more()

    def _is_whole(self, value: Any, end: int) -> bool:
        """Return whether `value` ends here: what was read of a number may go on, as `-1.` does."""
        is_number = type(value) is int or type(value) is float
        return not is_number or self._ended or self._text[end : end + 1] in _AFTER_NUMBER

    def _peek(self) -> Parsing:
        """Return the next character that is not blank."""
        while True:
            while self._at < len(self._text):
                character = self._text[self._at]
                if character not in _BLANK:
                    return character
                self._at += 1
            yield from self._more()

    def _more(self) -> Parsing:
        if self._ended:
            raise RpcError("the node's answer broke off", code=0, retryable=True)
        yield
