"""The accounts as the node knows them now, and the methods that read them."""

from __future__ import annotations

from collections.abc import Callable
from heapq import nsmallest
from typing import TYPE_CHECKING, Any

import msgspec

from account_socket.protocol import solana_params as p
from account_socket.protocol import solana_reads as r
from account_socket.protocol.solana_jsonrpc import METHOD_NOT_FOUND, RpcFault

if TYPE_CHECKING:
    from account_socket.model import RawAccount

MAX_PAGE, DEFAULT_PAGE = 10_000, 1_000
VERSION = "3.0.6"
FEATURE_SET = 2891131721

_encode = msgspec.json.Encoder().encode


class Ledger:
    """
    The newest state of every open account, and the slots.

    Attributes:
        tip_slot: The newest slot that was announced; what getSlot says.
        context_slot: The slot that reads are labelled with: every later write has a higher one.
        has_pages: Whether getProgramAccountsV2 is offered, as some providers do and Agave does not.
    """

    def __init__(self, *, tip_slot: int, genesis_hash: str) -> None:
        self.tip_slot = tip_slot
        self.context_slot = tip_slot
        self.has_pages = False
        self._genesis_hash = genesis_hash
        self._accounts: dict[str, RawAccount] = {}
        self._by_owner: dict[str, dict[str, RawAccount]] = {}
        self._held: Ledger | None = None
        self._methods: dict[str, Callable[[list[Any]], bytes]] = {
            "getAccountInfo": self._get_account_info,
            "getMultipleAccounts": self._get_multiple_accounts,
            "getProgramAccounts": self._get_program_accounts,
            "getProgramAccountsV2": self._get_program_accounts_page,
            "getSlot": self._get_slot,
            "getHealth": lambda _: b'"ok"',
            "getVersion": lambda _: get_version(),
            "getGenesisHash": lambda _: _encode(self._genesis_hash),
        }

    def get(self, pubkey: str) -> RawAccount | None:
        """Return an account, None if it is not open."""
        return self._accounts.get(pubkey)

    def apply(self, account: RawAccount) -> bool:
        """Take a write; 0 lamports closes the account. Return whether the account was open before."""
        before = self._remove(account.pubkey)
        if account.lamports:
            self._accounts[account.pubkey] = account
            self._by_owner.setdefault(account.owner, {})[account.pubkey] = account
        return before is not None

    def restore(self, pubkey: str, before: RawAccount | None) -> None:
        """Make an account again what it was before; None: not open."""
        if before is None:
            self._remove(pubkey)
        else:
            self.apply(before)

    def _remove(self, pubkey: str) -> RawAccount | None:
        before = self._accounts.pop(pubkey, None)
        if before is not None:
            del self._by_owner[before.owner][pubkey]
        return before

    def __len__(self) -> int:
        return len(self._accounts)

    def hold_reads(self, held: bool) -> None:
        """Answer reads with what the accounts and the slots are now; or with what they are then."""
        self._held = self._copy() if held else None

    def _copy(self) -> Ledger:
        copy = Ledger(tip_slot=self.tip_slot, genesis_hash=self._genesis_hash)
        copy.context_slot = self.context_slot
        copy.has_pages = self.has_pages
        for account in self._accounts.values():
            copy.apply(account)
        return copy

    def call(self, method: str, params: list[Any]) -> bytes:
        """Return the result of a read, as JSON. Raises RpcFault."""
        if self._held is not None:
            return self._held.call(method, params)
        if (read := self._methods.get(method)) is None:
            raise RpcFault(METHOD_NOT_FOUND, "Method not found")
        return read(params)

    def _get_account_info(self, params: list[Any]) -> bytes:
        pubkey, config = r.parse_account_info(params)
        self._check_context(config)
        return self._with_context(r.encode_read(self._accounts.get(pubkey), config))

    def _get_multiple_accounts(self, params: list[Any]) -> bytes:
        keys, config = r.parse_multiple_accounts(params)
        self._check_context(config)
        return self._with_context(r.join(r.encode_read(self._accounts.get(key), config) for key in keys))

    def _get_program_accounts(self, params: list[Any]) -> bytes:
        program, config, filters = r.parse_program_accounts(params)
        self._check_context(config)
        accounts = self._by_owner.get(program, {})
        found = r.join(
            r.encode_listed(accounts[pubkey], config)
            for pubkey in sorted(accounts)
            if all(each.matches(accounts[pubkey].data) for each in filters)
        )
        return self._with_context(found) if config.with_context else found

    def _get_program_accounts_page(self, params: list[Any]) -> bytes:
        if not self.has_pages:
            raise RpcFault(METHOD_NOT_FOUND, "Method not found")
        program, config, filters = r.parse_program_accounts(params)
        limit = DEFAULT_PAGE if config.limit is None else config.limit
        if not 1 <= limit <= MAX_PAGE:
            raise p.invalid_params(f"limit is not 1 to {MAX_PAGE}")
        after, since = config.pagination_key or "", config.changed_since_slot or 0
        pubkeys = nsmallest(
            limit + 1,
            (
                pubkey
                for pubkey, account in self._by_owner.get(program, {}).items()
                if pubkey > after and account.slot >= since and all(each.matches(account.data) for each in filters)
            ),
        )
        listed = r.join(r.encode_listed(self._accounts[pubkey], config) for pubkey in pubkeys[:limit])
        key = _encode(pubkeys[limit - 1] if len(pubkeys) > limit else None)
        page = b'{"accounts":%b,"paginationKey":%b}' % (listed, key)
        return self._with_context(page) if config.with_context else page

    def _get_slot(self, params: list[Any]) -> bytes:
        p.expect(params, least=0, most=1)
        self._check_context(p.parse_config(params, 0))
        return b"%d" % self.tip_slot

    def _check_context(self, config: p.Config) -> None:
        r.check_context(config, self.context_slot)

    def _with_context(self, value: bytes) -> bytes:
        return r.with_context(self.context_slot, value, VERSION)


def get_version() -> bytes:
    """Return the result of getVersion, as JSON."""
    return _encode({"feature-set": FEATURE_SET, "solana-core": VERSION})
