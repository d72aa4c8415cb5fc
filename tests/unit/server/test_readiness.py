"""How far behind a silent upstream is."""

from __future__ import annotations

from types import SimpleNamespace

from account_socket.server.readiness import MAX_BEHIND_SLOTS, Readiness


def test_slots_behind_grow_with_the_silence() -> None:
    """Nothing while upstream is fresh; then what the chain makes in the time since its last slot."""
    status = SimpleNamespace(tip_slot=None, tip_at=None)
    now = [100.0]
    readiness = Readiness([SimpleNamespace(status=status)], stale_after=5, parts={}, clock=lambda: now[0])
    assert readiness.slots_behind == MAX_BEHIND_SLOTS
    status.tip_slot, status.tip_at = 7, 100.0
    assert readiness.slots_behind == 0
    now[0] = 105.0
    assert readiness.slots_behind == 0
    now[0] = 140.0
    assert readiness.slots_behind == 100
