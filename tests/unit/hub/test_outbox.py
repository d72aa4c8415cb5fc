from hypothesis import given
from hypothesis import strategies as st

from account_socket.hub.frames import Message
from account_socket.hub.outbox import TURN_BYTES, Outbox


def outbox() -> Outbox:
    return Outbox(lambda: None)


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
    assert box.take(writable=True) == [b"ack1", b"B1", b"A2", b"ack2"]
    assert (box.conflated, box.backlog) == (1, 0)


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
    while turns == 0 or box.backlog:
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
