from hypothesis import given
from hypothesis import strategies as st

from account_socket.hub.frames import Message, notice_message
from account_socket.hub.outbox import TURN_BYTES, Batch, Outbox


def outbox(max_bytes: int = 1 << 20, batch: Batch | None = None) -> Outbox:
    return Outbox(lambda: None, batch or Batch(), max_bytes)


def put(box: Outbox, *messages: Message) -> None:
    box.pending.extend(messages)


def test_a_client_that_keeps_up_is_written_everything_in_order() -> None:
    """While the transport is writable, every message is taken, in order, at once."""
    box = outbox()
    put(box, Message(b"1", "A"), Message(b"2", "A"), Message(b"ack"), Message(b"3", "B"))
    assert box.take(writable=True) == [b"1", b"2", b"ack", b"3"]
    assert (box.backlog, box.sent, box.conflated) == (0, 4, 0)


def test_a_slow_client_keeps_the_newest_of_each_account_and_every_answer() -> None:
    """Above high water a newer state replaces the older and moves to the end; answers stay."""
    box = outbox()
    put(box, Message(b"A1", "A"), Message(b"ack1"), Message(b"B1", "B"))
    assert box.take(writable=False) == []
    put(box, Message(b"A2", "A"), Message(b"ack2"))
    assert box.take(writable=False) == []
    assert box.take(writable=True) == [b"A2", b"ack1", b"B1", b"ack2"]
    assert (box.conflated, box.backlog) == (1, 0)


def test_without_answers_a_replaced_state_moves_to_the_end() -> None:
    """Where no answer waits, ids leave in order over all accounts."""
    box = outbox()
    put(box, Message(b"A1", "A"), Message(b"B2", "B"), Message(b"A3", "A"))
    box.take(writable=False)
    assert box.take(writable=True) == [b"B2", b"A3"]


def test_a_state_never_falls_behind_its_ack() -> None:
    """A state that is replaced while its ack waits behind it still leaves before the ack."""
    box = outbox()
    put(box, Message(b"A1", "A"), Message(b"ack"))
    box.take(writable=False)
    put(box, Message(b"A2", "A"))
    box.take(writable=False)
    assert box.take(writable=True) == [b"A2", b"ack"]
    put(box, Message(b"A3", "A"), Message(b"B4", "B"), Message(b"A5", "A"))
    box.take(writable=False)
    assert box.take(writable=True) == [b"B4", b"A5"]


def test_a_burst_to_a_client_that_keeps_up_leaves_whole_and_in_order() -> None:
    """More than a turn's bytes, but less than a client may have waiting, is not conflated."""
    box = outbox()
    frames = [b"%04d" % n + bytes(2_000) for n in range(400)]
    put(box, *(Message(frame, "A") for frame in frames))
    taken = box.take(writable=True)
    assert 0 < sum(map(len, taken)) <= TURN_BYTES + 2_004
    assert box.waiting
    while box.waiting:
        taken += box.take(writable=True)
    assert taken == frames
    assert box.conflated == 0


def test_more_than_may_wait_makes_a_client_behind() -> None:
    """Above the bound the newest state of each account is kept, whether or not the transport is writable."""
    box = outbox(max_bytes=300_000)
    put(box, *(Message(b"%04d" % n + bytes(2_000), "A") for n in range(400)))
    assert [frame[:4] for frame in box.take(writable=True)] == [b"0399"]
    assert box.conflated == 399


def test_what_is_new_waits_behind_the_backlog() -> None:
    """A message published while a backlog is left leaves after it."""
    box = outbox()
    put(box, Message(b"B1", "B"))
    box.take(writable=False)
    put(box, Message(b"A1", "A"))
    assert box.take(writable=True) == [b"B1", b"A1"]


def test_one_turn_takes_a_bounded_amount() -> None:
    """More than TURN_BYTES leaves in several turns, in order, without loss."""
    box = outbox()
    frames = [b"%06d" % n + bytes(60_000) for n in range(20)]
    put(box, *(Message(frame, str(n)) for n, frame in enumerate(frames)))
    taken = []
    turns = 0
    while turns == 0 or box.waiting:
        turn = box.take(writable=True)
        assert sum(map(len, turn)) <= TURN_BYTES + 60_006
        taken += turn
        turns += 1
    assert taken == frames
    assert turns >= 4


@given(st.lists(st.tuples(st.sampled_from("ABC-"), st.booleans(), st.booleans()), max_size=80))
def test_ids_leave_in_order_and_the_last_of_each_account_always_leaves(steps: list[tuple[str, bool, bool]]) -> None:
    """Whatever the pauses, ids of an account only grow, all answers leave, and the newest state is the last."""
    box = outbox()
    newest: dict[str, int] = {}
    answers: list[int] = []
    taken: list[tuple[str, int]] = []

    def take(*, writable: bool) -> None:
        for frame in box.take(writable=writable):
            key, number = frame.decode().split(":")
            taken.append((key, int(number)))

    for number, (key, flush, writable) in enumerate(steps):
        put(box, Message(f"{key}:{number}".encode(), None if key == "-" else key))
        if key == "-":
            answers.append(number)
        else:
            newest[key] = number
        if flush:
            take(writable=writable)
    take(writable=True)
    assert [number for key, number in taken if key == "-"] == answers
    for key, last in newest.items():
        numbers = [number for name, number in taken if name == key]
        assert numbers == sorted(set(numbers))
        assert numbers[-1] == last
    assert box.sent + box.conflated == len(steps)


def test_of_each_topic_the_newest_notice_waits_behind_everything() -> None:
    """A notice that is replaced moves to the end, also where an answer waits: it speaks of what was sent before."""
    box = outbox()
    status = [notice_message("status rpc-0", b"%d" % number) for number in range(1000)]
    put(box, status[0], Message(b"A1", "A"), Message(b"ack"), *status[1:], Message(b"B2", "B"))
    box.take(writable=False)
    assert box.backlog == 4
    assert box.take(writable=True) == [b"A1", b"ack", status[-1].frame, b"B2"]


def test_a_state_never_falls_behind_the_gap_that_it_healed() -> None:
    """A newer state takes the place of the one that healed, before `healed`; later, order is as without a gap."""
    box = outbox()
    opened, healed = (notice_message("gap rpc-0", payload, fence=True) for payload in (b"opened", b"healed"))
    put(box, opened, Message(b"A1", "A"), healed, Message(b"B2", "B"), Message(b"A3", "A"))
    box.take(writable=False)
    assert box.take(writable=True) == [b"A3", healed.frame, b"B2"]
    put(box, Message(b"A4", "A"), Message(b"B5", "B"), Message(b"A6", "A"))
    box.take(writable=False)
    assert box.take(writable=True) == [b"B5", b"A6"]


def test_what_left_replaces_what_waits_in_every_form() -> None:
    """Behind an ack, an account that left and came back is told last as it is; what came before it left is old."""
    box = outbox()
    put(box, Message(b"A1", "A/1"), Message(b"A1", "A/2"), Message(b"B1", "B/1"), Message(b"ack"))
    box.take(writable=False)
    put(box, Message(b"left2", "A", left=True), Message(b"A3", "A/1"), Message(b"B4", "B/1"))
    box.take(writable=False)
    assert (box.conflated, box.backlog) == (3, 4)
    put(box, Message(b"left5", "A", left=True), Message(b"A6", "A/2"))
    box.take(writable=False)
    assert box.take(writable=True) == [b"B4", b"ack", b"left5", b"A6"]
    assert box.conflated == 5
    put(box, Message(b"A7", "A/1"), Message(b"ack"), Message(b"left8", "A", left=True))
    box.take(writable=False)
    assert box.take(writable=True) == [b"ack", b"left8"]


def test_who_takes_every_update_loses_none_to_what_left() -> None:
    """What waits in another form stays, and the client is not lost before anything of it is."""
    box = outbox()
    box.every = 1
    put(box, Message(b"A1", "A/1"), Message(b"left2", "A", left=True))
    box.take(writable=False)
    assert (box.lost, box.conflated) == (False, 0)
    assert box.take(writable=True) == [b"A1", b"left2"]


# ---- several clients that are written alike ----------------------------------------------------------------


def test_one_message_is_its_own_buffer() -> None:
    """Nothing is copied: the frame that all clients share is what is written."""
    box = outbox()
    message = Message(b"frame", "key")
    put(box, message)
    assert box.take_at_once() is message.frame
    assert (box.pending, box.sent) == ([], 1)


def test_the_second_client_with_the_same_messages_shares_one_buffer_with_the_third() -> None:
    """The first is written frame by frame, as nobody knows yet whether another will be written the same."""
    batch = Batch()
    messages = [Message(b"one", "a"), Message(b"two", "b")]
    boxes = [outbox(batch=batch) for _ in range(3)]
    for box in boxes:
        put(box, *messages)
    taken = [box.take_at_once() for box in boxes]
    assert taken == [b"", b"onetwo", b"onetwo"]
    assert taken[1] is taken[2]
    assert [box.sent for box in boxes] == [0, 2, 2]
    assert boxes[0].take(writable=True) == [b"one", b"two"]


def test_messages_that_only_look_alike_are_not_shared() -> None:
    """Equal bytes of another message may be another state's; only the same messages count."""
    batch = Batch()
    for _ in range(3):
        box = outbox(batch=batch)
        put(box, Message(b"one", "a"), Message(b"two", "b"))
        assert box.take_at_once() == b""


def test_a_client_that_is_behind_is_not_written_at_once() -> None:
    """What waits in its backlog comes first."""
    box = outbox()
    put(box, Message(b"old", "a"))
    box.take(writable=False)
    put(box, Message(b"new", "b"))
    assert box.take_at_once() == b""
    assert box.take(writable=True) == [b"old", b"new"]
