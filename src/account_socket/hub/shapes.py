"""
Forms in which a state is told: some of its fields, or what changed. Each made once for everybody who takes it. Pure.

A state's message is the start of both: whoever wants another form has it made from that, when it is sent.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from itertools import count
from typing import Any, Generic, TypeVar
from weakref import WeakValueDictionary

import msgspec

from account_socket.hub.frames import Message, payload_of, text_frame

READ_ROOM = 256
"""How many states are kept decoded; of pools, some 5 MB."""
MADE_ROOM = 1024
"""How many messages in other forms are kept."""

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_ENVELOPE = ("id", "pubkey", "slot", "account_type", "owner", "lamports", "created_at", "prev_id")
_BESIDE = ("account_type", "owner", "lamports")

Tree = dict[str, "Tree | None"]


@dataclass(frozen=True)
class Shape:
    """
    How a subscription is told its states; at most one of these.

    Attributes:
        fields: only these dotted paths of `data_json`, sorted.
        diff: the changes from one state to the next.
        max_rate_ms: at most one state of an account in so many milliseconds; 0: all.
    """

    fields: tuple[str, ...] = ()
    diff: bool = False
    max_rate_ms: int = 0


FULL = Shape()


class Form:
    """A shape that somebody takes; one object for all who do, with a number that stands in keys of messages."""

    __slots__ = ("__weakref__", "number", "shape", "tree")

    def __init__(self, shape: Shape, number: int) -> None:
        self.shape = shape
        self.number = number
        self.tree: Tree = {}
        for path in shape.fields:
            at = self.tree
            *steps, last = path.split(".")
            for step in steps:
                below = at.setdefault(step, {})
                if below is None:  # a shorter path has it all
                    break
                at = below
            else:
                at[last] = None

    def key(self, pubkey: str) -> str:
        """Return the key of messages in this form: another one's do not replace them."""
        return f"{pubkey}/{self.number}"


_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class _Kept(Generic[_K, _V]):
    """What was made last."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._kept: dict[_K, _V] = {}

    def get(self, key: _K) -> _V | None:
        return self._kept.get(key)

    def put(self, key: _K, value: _V) -> _V:
        if len(self._kept) >= self._room:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = value
        return value


class _Read:
    """A state's message, decoded."""

    __slots__ = ("_leaves", "account", "beside", "closed")

    def __init__(self, message: Message) -> None:
        self.beside: dict[str, Any] = _decode(payload_of(message.frame))
        self.account: dict[str, Any] = self.beside.pop("account")
        self.closed = bool(self.account.get("closed"))
        self._leaves: dict[str, Any] | None = None

    @property
    def leaves(self) -> dict[str, Any]:
        """Every value that is no object and no array, by its path; of an empty one itself."""
        if self._leaves is None:
            self._leaves = {}
            _flatten("", self.account["data_json"], self._leaves)
        return self._leaves


class Shapes:
    """Makes messages in other forms out of those of states."""

    def __init__(self) -> None:
        self._forms: WeakValueDictionary[Shape, Form] = WeakValueDictionary()
        self._numbers = count(1)
        self._read: _Kept[Message, _Read] = _Kept(READ_ROOM)
        self._made: _Kept[tuple[object, ...], Message] = _Kept(MADE_ROOM)

    def form(self, shape: Shape) -> Form:
        """Return the form of a shape, the same for as long as somebody holds it."""
        form = self._forms.get(shape)
        if form is None:
            form = self._forms[shape] = Form(shape, next(self._numbers))
        return form

    def whole(self, message: Message, form: Form) -> Message:
        """Return a state as it is, under the key of a form."""
        return self._made.get((form.number, message)) or self._made.put(
            (form.number, message), Message(message.frame, form.key(message.key or ""), answers=message.answers)
        )

    def fields(self, message: Message, form: Form) -> Message:
        """Return a state with the fields of `form` alone."""
        made = self._made.get((form.number, message))
        if made is not None:
            return made
        state = self._decoded(message)
        account = {**state.account, "data_json": _project(state.account["data_json"], form.tree)}
        frame = text_frame(_encode({**state.beside, "shape": "fields", "account": account}))
        made = Message(frame, form.key(message.key or ""), answers=message.answers)
        return self._made.put((form.number, message), made)

    def diff(self, old: Message, message: Message, form: Form) -> Message:
        """
        Return what changed from one state to the next, or the next one itself.

        It is the state itself where it answers a subscription, tells of an event or a close, or has other fields.
        """
        key = (form.number, old, message)
        made = self._made.get(key)
        if made is None:
            payload = None if message.answers else _difference(self._decoded(old), self._decoded(message))
            whole = self.whole(message, form)
            made = whole if payload is None else Message(text_frame(payload), whole.key, whole=whole)
            self._made.put(key, made)
        return made

    def is_closed(self, message: Message) -> bool:
        """Whether a state's message tells that its account is closed."""
        return b'"closed":true' in message.frame and self._decoded(message).closed

    def _decoded(self, message: Message) -> _Read:
        return self._read.get(message) or self._read.put(message, _Read(message))


def _project(data: Any, tree: Tree) -> Any:
    """Return what `tree` names of `data`; an array keeps its indexes, with null in the places between."""
    if isinstance(data, dict):
        return {name: _part(data[name], under) for name, under in tree.items() if name in data}
    if isinstance(data, list):
        indexes = {int(step): under for step, under in tree.items() if step.isdecimal() and int(step) < len(data)}
        return [
            _part(data[index], indexes[index]) if index in indexes else None
            for index in range(max(indexes, default=-1) + 1)
        ]
    return None


def _part(value: Any, under: Tree | None) -> Any:
    return value if under is None else _project(value, under)


def _flatten(path: str, data: Any, leaves: dict[str, Any]) -> None:
    if isinstance(data, dict) and data:
        for name, value in data.items():
            _flatten(f"{path}.{name}" if path else name, value, leaves)
    elif isinstance(data, list) and data:
        for index, value in enumerate(data):
            _flatten(f"{path}.{index}" if path else str(index), value, leaves)
    else:
        leaves[path] = data


def _difference(old: _Read, new: _Read) -> bytes | None:
    if new.closed or old.closed or "event" in new.beside or old.account["account_type"] != new.account["account_type"]:
        return None
    before, after = old.leaves, new.leaves
    if before.keys() != after.keys():
        return None
    changed = {path: [value, after[path]] for path, value in before.items() if not _same(value, after[path])}
    for name in _BESIDE:
        if name not in after and old.account[name] != new.account[name]:
            changed[name] = [old.account[name], new.account[name]]
    account = {name: new.account[name] for name in (*_ENVELOPE, "signature") if name in new.account}
    account["prev_id"] = old.account["id"]
    return _encode({**new.beside, "shape": "diff", "account": account, "changed": changed})


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other
