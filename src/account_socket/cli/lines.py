"""An account's state in one line for people. Pure."""

from __future__ import annotations

import msgspec

from account_socket.client import Account, Update


def account_line(account: Account) -> str:
    """Return when, which slot and id, what type, how many lamports."""
    closed = " closed" if account.closed else ""
    return (
        f"{account.created_at} slot {account.slot} id {account.id} "
        f"{account.account_type}{closed} lamports {account.lamports}"
    )


def update_line(update: Update) -> str:
    """Return the same with the account's key, where it comes from, and what happened."""
    event = f" {update.event}" if update.event else ""
    stale = " stale" if update.stale else ""
    return f"{update.pubkey} {account_line(update.account)} {update.source}{event}{stale}"


def account_json(account: Account) -> str:
    """Return an account as the server publishes it."""
    told = msgspec.structs.asdict(account)
    absent = [name for name in ("closed", "signature") if not told[name]]
    return msgspec.json.encode({name: value for name, value in told.items() if name not in absent}).decode()
