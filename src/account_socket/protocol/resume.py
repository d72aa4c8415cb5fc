"""What a client that goes on where it broke off says beside the accounts: `after` and `epoch`. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from account_socket.model import MAX_I64
from account_socket.protocol.refusals import invalid, quote

MAX_EPOCH_CHARACTERS = 128


class Resume(msgspec.Struct, frozen=True, gc=False):
    """
    Attributes:
        after: account → the highest id that the client has of it; 0 … 2^63-1.
        epoch: the epoch that these ids are of.
        after_id: for a subscription by filter, the highest id of all its accounts; then `after` is empty.
    """

    after: dict[str, int]
    epoch: str
    after_id: int | None = None


def take_resume(fields: dict[str, Any]) -> Resume | None:
    """
    Take `after` or `after_id`, and `epoch`, out of a subscribe request; None where there is neither.

    Whoever names no accounts beside `after` gets a `pubkeys` put in: those of `after`. A thousand would else not fit
    in a message twice.

    Raises:
        RefusedError: what is wrong with them.
    """
    if "after_id" in fields and "after" not in fields:
        after_id = fields.pop("after_id")
        if not _is_id(after_id):
            raise invalid("after_id must be an id, an integer from 0 to 2^63-1")
        return Resume({}, _take_epoch(fields), after_id)
    if "after" not in fields:
        return None
    after = fields.pop("after")
    if not isinstance(after, dict):
        raise invalid("after must be an object of ids by account")
    if type(after) is not dict:  # the decoder's mark for it (messages.py)
        raise invalid("a key appears twice in after; send each account once")
    if not all(map(_is_id, after.values())):
        raise invalid("each value of after must be an id, an integer from 0 to 2^63-1")
    if "pubkey" not in fields:
        fields.setdefault("pubkeys", list(after))
    return Resume(after, _take_epoch(fields))


def _take_epoch(fields: dict[str, Any]) -> str:
    epoch = fields.pop("epoch", None)
    if not isinstance(epoch, str) or not 0 < len(epoch) <= MAX_EPOCH_CHARACTERS:
        raise invalid("beside ids, epoch must be the string of the ack that they go with")
    return epoch


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_I64


def check_covered(resume: Resume, pubkeys: tuple[str, ...]) -> None:
    """Raise RefusedError where the ids do not go with the accounts subscribed to; none are named by a filter."""
    if pubkeys and resume.after_id is not None:
        raise invalid("after_id goes with account_type, program and where; beside pubkeys send after")
    if not pubkeys and resume.after_id is None:
        raise invalid("after goes with pubkeys; beside account_type, program and where send after_id")
    named = set(pubkeys)
    for pubkey in resume.after:
        if pubkey not in named:
            raise invalid(f"after names {quote(pubkey)}, which is not among the accounts asked for")
