"""An account's state in one line for people. Pure."""

from __future__ import annotations

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
