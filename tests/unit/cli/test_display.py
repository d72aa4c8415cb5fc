"""What `watch` shows on a terminal."""

from __future__ import annotations

import io
import json
from typing import Any

from rich.console import Console

from account_socket.cli.display import Display
from account_socket.client.frames import Update, read_frame

PUBKEY = "7YAtw7GcEuEV93E84pRPJnyGsKnCTgfPuTZxBWXZB8Sa"


def update(id: int | None, data_json: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    account = {
        "id": id,
        "pubkey": PUBKEY,
        "slot": 5,
        "account_type": "Pool",
        "owner": "cp",
        "lamports": 10,
        "data_json": data_json,
        "created_at": "2026-11-23T12:00:00.123456Z",
    }
    return {"pubkey": PUBKEY, "source": "realtime", "account": account | more}


def shown(*messages: dict[str, Any]) -> list[str]:
    out = io.StringIO()
    display = Display(Console(file=out, width=120, markup=False, emoji=False, highlight=False))
    for message in messages:
        read = read_frame(json.dumps(message).encode())
        assert isinstance(read, Update)
        display.show(read)
    return [" ".join(line.split()) for line in out.getvalue().splitlines()]


def test_first_state_is_one_line() -> None:
    """The first state of an account is told in one line, without its fields."""
    assert shown(update(1, {"fee": "1"})) == [f"2026-11-23T12:00:00.123456Z Pool {PUBKEY} slot 5 id 1 realtime"]


def test_changed_fields_follow_the_head_line() -> None:
    """A later update tells the fields that changed, from what to what, lamports and owner among them."""
    lines = shown(
        update(1, {"fees": {"base": "1", "old": 2}, "same": [1]}),
        update(2, {"fees": {"base": "3", "old": 2}, "same": [1]}, lamports=11),
    )
    assert lines[2:] == ["lamports 10 → 11", "fees.base 1 → 3"]


def test_state_that_comes_again_is_not_shown() -> None:
    """After a reconnect the same id is not shown twice; an update without an id is."""
    assert len(shown(update(1, {}), update(1, {}))) == 1
    assert len([line for line in shown(update(None, {}), update(None, {})) if line]) == 2


def test_closed_account_says_so() -> None:
    """A closed account is marked, and what it held is told as gone."""
    lines = shown(update(1, {"a": 1}), update(2, None, closed=True, lamports=0))
    assert "Pool closed" in lines[1]
    assert lines[2:] == ["lamports 10 → 0", 'data_json {"a": 1} → null']


def test_markup_and_length_of_values() -> None:
    """A value is shown as it is, square brackets included, cut to 48 characters."""
    lines = shown(update(1, {"a": "[red]x[/red]"}), update(2, {"a": "y" * 60}))
    assert lines[-1] == f"a [red]x[/red] → {'y' * 47}…"
