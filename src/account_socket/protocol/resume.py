"""What a client that goes on where it broke off says beside the accounts: `after` and `epoch`. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from account_socket.protocol.refusals import invalid, quote

MAX_EPOCH_CHARACTERS = 128
MAX_ID = 2**63 - 1


class Resume(msgspec.Struct, frozen=True, gc=False):
    """
    Attributes:
        after: account → the highest id that the client has of it; 0 … 2^63-1.
        epoch: the epoch that these ids are of.
    """

    after: dict[str, int]
    epoch: str


def take_resume(fields: dict[str, Any]) -> Resume | None:
    """
    Take `after` and `epoch` out of a subscribe request; None where there is no `after`.

    Whoever names no accounts beside `after` gets a `pubkeys` put in: those of `after`. A thousand would else not fit
    in a message twice.

    Raises:
        RefusedError: what is wrong with them.
    """
    if "after" not in fields:
        return None
    after, epoch = fields.pop("after"), fields.pop("epoch", None)
    if not isinstance(after, dict):
        raise invalid("after must be an object of ids by account")
    if type(after) is not dict:  # the decoder's mark for it (messages.py)
        raise invalid("a key appears twice in after; send each account once")
    if not isinstance(epoch, str) or not 0 < len(epoch) <= MAX_EPOCH_CHARACTERS:
        raise invalid("beside after, epoch must be the string of the ack that the ids go with")
    if any(type(id_) is not int or not 0 <= id_ <= MAX_ID for id_ in after.values()):
        raise invalid("each value of after must be an id, an integer from 0 to 2^63-1")
    if "pubkey" not in fields:
        fields.setdefault("pubkeys", list(after))
    return Resume(after, epoch)


def check_covered(resume: Resume, pubkeys: tuple[str, ...]) -> None:
    """Raise RefusedError where `after` names an account that is not among those subscribed to."""
    named = set(pubkeys)
    for pubkey in resume.after:
        if pubkey not in named:
            raise invalid(f"after names {quote(pubkey)}, which is not among the accounts asked for")
