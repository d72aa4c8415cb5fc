from __future__ import annotations

import json
from typing import Any

from tests.hostile_node import account_json, program_notification, slot_notification
from tests.samples import KEY_A, KEY_B, PROGRAM

from account_socket.sources.pubsub import FrameReader
from account_socket.sources.pubsub_session import ENCODINGS, MAX_BATCH_ACCOUNTS, PubSubSession
from account_socket.sources.slot_tip import SlotTip

OTHER_PROGRAM = "11111111111111111111111111111111"
SLOTS, FIRST, SECOND = 7, 24040, 24041


def session_with(*programs: str, tip: SlotTip | None = None) -> PubSubSession:
    return PubSubSession(FrameReader("rpc-0"), tip or SlotTip(), programs or (PROGRAM,), "confirmed")


def feed(session: PubSubSession, *frames: Any) -> None:
    for frame in frames:
        session.receive(json.dumps(frame).encode(), 1.0)


def sent(session: PubSubSession) -> list[dict[str, Any]]:
    return [json.loads(message) for message in session.take_outgoing()]


def kinds(session: PubSubSession) -> list[str]:
    return [odd.kind for odd in session.odd]


def known_tip(slot: int = 100) -> SlotTip:
    tip = SlotTip()
    tip.confirm(slot, 1.0)
    return tip


def subscribed(tip: SlotTip) -> PubSubSession:
    """Return a session that is subscribed to slots and to the program."""
    session = session_with(tip=tip)
    slots, program = sent(session)
    feed(session, {"id": slots["id"], "result": SLOTS}, {"id": program["id"], "result": FIRST})
    assert session.ready
    return session


def test_slots_are_asked_for_first() -> None:
    """The first request is slotSubscribe, then one programSubscribe for each program, each with its own id."""
    requests = sent(session_with(PROGRAM, OTHER_PROGRAM))
    assert [request["method"] for request in requests] == ["slotSubscribe", "programSubscribe", "programSubscribe"]
    assert [request["params"][0] for request in requests[1:]] == [PROGRAM, OTHER_PROGRAM]
    assert all(
        request["params"][1] == {"encoding": ENCODINGS[0], "commitment": "confirmed"} for request in requests[1:]
    )
    assert len({request["id"] for request in requests}) == 3


def test_it_is_ready_when_every_program_is_subscribed() -> None:
    """The session is ready with the last reply, not before."""
    session = session_with(PROGRAM, OTHER_PROGRAM)
    _, first, second = sent(session)
    feed(session, {"id": first["id"], "result": FIRST})
    assert not session.ready
    feed(session, {"id": second["id"], "result": SECOND})
    assert session.ready


def test_notifications_before_the_reply_keep_their_order() -> None:
    """What comes before the reply that names its subscription is delivered, before what comes after it."""
    session = session_with()
    _, program = sent(session)
    feed(session, program_notification(pubkey=KEY_A), program_notification(pubkey=KEY_B))
    assert not session.waiting
    feed(session, {"id": program["id"], "result": FIRST}, program_notification(pubkey=KEY_A, slot=5))
    assert [account.pubkey for account in session.take_accounts()] == [KEY_A, KEY_B, KEY_A]
    assert not session.waiting


def test_notifications_of_unknown_subscriptions_are_odd() -> None:
    """An unknown subscription is odd once every reply is in, be it seen before or after."""
    session = session_with()
    _, program = sent(session)
    feed(session, program_notification(subscription=99))
    assert kinds(session) == []
    feed(session, {"id": program["id"], "result": FIRST}, program_notification(subscription=99))
    assert kinds(session) == ["unknown_subscription", "unknown_subscription"]
    assert not session.waiting


def test_what_comes_before_the_reply_is_bounded() -> None:
    """At most 16 MiB wait for a reply; the rest is odd."""
    session = session_with()
    large = program_notification(account_json(bytes(4 << 20), encoding="base64+zstd"))
    feed(session, *[large] * 6)
    assert kinds(session) == ["unknown_subscription"] * 3


def test_a_refused_encoding_falls_back() -> None:
    """When the node refuses the encoding the program is asked for with the next one."""
    session = session_with()
    _, program = sent(session)
    feed(session, {"id": program["id"], "error": {"code": -32602, "message": "Invalid params: unknown variant"}})
    (again,) = sent(session)
    assert again["params"] == [PROGRAM, {"encoding": "base64", "commitment": "confirmed"}]
    assert again["id"] != program["id"]
    feed(session, {"id": again["id"], "result": FIRST})
    assert session.ready
    assert session.failure == ""


def test_a_refused_program_is_a_failure() -> None:
    """A refusal that another encoding does not mend names the node's reason and leaves the session of no use."""
    for code, message in (
        (-32603, "Subscription refused. Node subscription limit reached"),
        (-32601, "Method not found"),
    ):
        session = session_with()
        _, program = sent(session)
        feed(session, {"id": program["id"], "error": {"code": code, "message": message}})
        assert message in session.failure
        assert not session.ready


def test_a_reply_that_is_no_subscription_is_a_failure() -> None:
    """A result that is no number is a failure."""
    session = session_with()
    _, program = sent(session)
    feed(session, {"id": program["id"], "result": "ok"})
    assert session.failure


def test_a_refused_slot_subscription_is_no_failure() -> None:
    """A node without slotSubscribe is used; its slot must be asked for."""
    session = session_with()
    slots, program = sent(session)
    feed(session, {"id": slots["id"], "error": {"code": -32601, "message": "Method not found"}})
    feed(session, {"id": program["id"], "result": FIRST})
    assert session.slots_refused
    assert session.ready


def test_replies_nobody_asked_for_are_odd() -> None:
    """A reply with another id, or a second one, is odd."""
    session = subscribed(known_tip())
    feed(session, {"id": 999, "result": 5}, {"id": 1, "result": 5})
    assert kinds(session) == ["unknown_reply", "unknown_reply"]


def test_only_newer_slots_are_heartbeats() -> None:
    """A slot that is not above the last one is no sign of life."""
    session = subscribed(known_tip(100))
    feed(session, *[slot_notification(slot) for slot in (98, 99, 99, 97, 100)])
    assert session.heartbeats == 3
    feed(session, slot_notification(101, subscription=FIRST))
    assert kinds(session) == ["unknown_subscription"]
    assert session.heartbeats == 3


def test_a_slot_far_ahead_waits_for_confirmation() -> None:
    """A slot a million ahead counts only when getSlot confirms it."""
    tip = known_tip(100)
    session = subscribed(tip)
    feed(session, slot_notification(5_000_000))
    assert (session.doubtful_slot, session.heartbeats, kinds(session)) == (5_000_000, 0, ["tip_ahead"])
    session.settle_doubt(None, 1.0)
    assert (tip.tip, session.heartbeats) == (None, 0)
    feed(session, slot_notification(5_000_000))
    session.settle_doubt(4_999_990, 1.0)
    assert (tip.tip, session.heartbeats) == (5_000_000, 1)


def test_a_lie_that_getslot_denies_is_refused() -> None:
    """When getSlot answers a slot far below, the doubtful one is refused and the answer is the tip."""
    tip = known_tip(100)
    session = subscribed(tip)
    feed(session, slot_notification(2**62))
    session.settle_doubt(120, 1.0)
    assert (tip.tip, session.heartbeats) == (120, 0)


def test_the_first_slot_of_a_process_is_believed_when_nobody_answers() -> None:
    """Without any answer to getSlot the very first slot is taken, a later jump is not."""
    tip = SlotTip()
    session = subscribed(tip)
    feed(session, slot_notification(300_000_000))
    assert (session.doubtful_slot, kinds(session)) == (300_000_000, [])
    session.settle_doubt(None, 1.0)
    assert (tip.tip, session.heartbeats) == (300_000_000, 1)
    feed(session, slot_notification(400_000_000))
    session.settle_doubt(None, 1.0)
    assert tip.tip == 300_000_000


def test_an_account_ahead_of_the_tip_is_marked() -> None:
    """The session says when a waiting account's slot lies beyond what the tip allows."""
    session = subscribed(known_tip())
    session.settle_doubt(100, 1.0)
    feed(session, program_notification(slot=250))
    assert not session.slot_ahead
    feed(session, program_notification(slot=251))
    assert session.slot_ahead
    assert len(session.take_accounts()) == 2
    assert not session.slot_ahead


def test_a_batch_is_full_by_number_or_bytes() -> None:
    """A thousand accounts are full, and so are 16 MiB."""
    session = subscribed(known_tip())
    session.settle_doubt(100, 1.0)
    for _ in range(MAX_BATCH_ACCOUNTS):
        assert not session.full
        feed(session, program_notification(slot=1))
    assert session.full
    session.take_accounts()
    feed(session, *[program_notification(account_json(bytes(9 << 20), encoding="base64+zstd"), slot=1)] * 2)
    assert session.full


def test_accounts_before_the_first_slot_are_bounded() -> None:
    """While no slot is known accounts wait up to a full batch; the rest is odd, and reading goes on."""
    session = subscribed(SlotTip())
    feed(session, *[program_notification()] * (MAX_BATCH_ACCOUNTS + 3))
    assert kinds(session) == ["before_first_slot"] * 3
    assert len(session.take_accounts()) == MAX_BATCH_ACCOUNTS


def test_other_requests_get_their_answers() -> None:
    """A request of `ask` is answered by its reply, an error by None, and an answer is handed out once."""
    session = subscribed(known_tip())
    good, bad = session.ask("getSlot"), session.ask("getSlot")
    assert [request["id"] for request in sent(session)] == [good, bad]
    assert not session.answered(good)
    feed(session, {"id": good, "result": 5}, {"id": bad, "error": {"code": -32601, "message": "no"}})
    assert session.answered(good)
    assert session.answered(bad)
    assert (session.answer(good), session.answer(bad), session.answer(good)) == (5, None, None)
