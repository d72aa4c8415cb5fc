"""What is answered to Solana's methods that read: from our state, byte for byte, or by the node, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from account_socket import __version__
from account_socket.hub.hub import Hub
from account_socket.protocol import solana_params as p
from account_socket.protocol import solana_reads as r
from account_socket.protocol.solana_encodings import Parsed
from account_socket.protocol.solana_jsonrpc import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    NODE_UNHEALTHY,
    SCAN_ERROR,
    RpcFault,
)
from account_socket.server.rest_answers import MAX_ANSWER_BYTES
from account_socket.server.rest_parameters import RefusedError
from account_socket.server.rest_reading import Reads, StoreReading, read_states, unavailable
from account_socket.server.solana_proxy import Proxy
from account_socket.sources.slot_tip import ACCOUNT_AHEAD_SLOTS
from account_socket.store.raw_accounts import Bytes, StoredAccount

LEVELS = ("processed", "confirmed", "finalized")
PAGE = 500
"""Accounts of a program that are encoded at a time: some milliseconds of the loop."""
SCANS_AT_ONCE = 2
SCAN_SECONDS = 30.0
"""How long a list of a program's accounts may wait and take."""
MAX_SCAN_BYTES = MAX_ANSWER_BYTES - 64 * 1024

_encode = msgspec.json.Encoder().encode


class Unable(Exception):  # noqa: N818  (the node may be able)
    """We cannot answer truthfully; `fault` says why."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.fault = RpcFault(code, message, data)


class ToldSlot:
    """The newest slot that anybody was told: an account's may be ahead of the tip."""

    def __init__(self) -> None:
        self._newest = 0

    def tell(self, slot: int) -> None:
        """Take that a state of this slot is told."""
        self._newest = max(self._newest, slot)

    def tell_tip(self, tip: int) -> int:
        """Return the slot to tell where upstream's tip is `tip`: none that was told is newer."""
        # Farther ahead than an account's slot may be, it is what a node said that lied and is gone.
        if not tip <= self._newest <= tip + ACCOUNT_AHEAD_SLOTS:
            self._newest = tip
        return self._newest


@dataclass(frozen=True)
class Known:
    """
    What there is to answer from.

    Attributes:
        reads: as for our own HTTP.
        slots_behind: 0 while upstream is not silent.
        commits: whether what is published is in the database.
        is_filled: whether every account of the programs is in the database.
        programs: address → name of the programs that are decoded.
        commitment: of everything that is known.
        proxy: asks the node instead; None: nobody does.
        told: what all answers and notifications told of the slot.
    """

    hub: Hub
    reads: Reads
    slots_behind: Callable[[], int]
    commits: Callable[[], bool]
    is_filled: Callable[[], bool]
    programs: Mapping[str, str]
    commitment: str
    proxy: Proxy | None = None
    told: ToldSlot = field(default_factory=ToldSlot)

    def tip_slot(self) -> int | None:
        """Return the slot that is told now, never behind one that was told before; None before the first."""
        tip = self.reads.tip_slot()
        return None if tip is None else self.told.tell_tip(tip)

    @property
    def not_served(self) -> Unable:
        """Why other programs' accounts are refused."""
        names = ", ".join(self.programs)
        return Unable(INVALID_PARAMS, f"Invalid params: only accounts of {names} are served here.")


def check_commitment(asked: str | None, ours: str) -> None:
    """Check that what is `asked` is not stronger than `ours`; None means ours. Raises Unable."""
    if asked is not None and LEVELS.index(asked) > LEVELS.index(ours):
        raise Unable(INVALID_PARAMS, f"Invalid params: commitment {asked} is not served here, only {ours}.")


def parsed_of(account_type: str, data_json: bytes, program: str | None) -> Parsed | None:
    """Return what jsonParsed shows; None where we have no layout."""
    if program is None or account_type == "Unknown" or data_json == b"null":
        return None
    return Parsed(program, account_type[:1].lower() + account_type[1:], data_json)


class SolanaReads:
    """Answers reads. One for the whole server."""

    def __init__(self, known: Known, reading: StoreReading) -> None:
        self._known = known
        self._reading = reading
        self._scans = asyncio.Semaphore(SCANS_AT_ONCE)
        self._methods: dict[str, Callable[[list[Any]], Awaitable[bytes]]] = {
            "getAccountInfo": self._get_account_info,
            "getMultipleAccounts": self._get_multiple_accounts,
            "getProgramAccounts": self._get_program_accounts,
            "getSlot": self._get_slot,
            "getHealth": self._get_health,
            "getVersion": self._get_version,
        }

    async def call(self, method: str, params: list[Any]) -> bytes:
        """Return the result as JSON. Raises RpcFault."""
        try:
            return await self._methods.get(method, _not_ours)(params)
        except Unable as unable:
            if self._known.proxy is None:
                raise unable.fault from None
        except RefusedError as refused:
            raise RpcFault(INTERNAL_ERROR, f"Internal error: {refused}") from None
        return await self._known.proxy.forward(method, self._at_our_commitment(method, params))

    def _at_our_commitment(self, method: str, params: list[Any]) -> list[Any]:
        """Return what the node is asked: where these methods name no commitment, they mean ours."""
        if method not in self._methods or method in ("getHealth", "getVersion"):
            return params
        at = 0 if method == "getSlot" else 1
        config = params[at] if len(params) > at and params[at] is not None else {}
        return [*params[:at], {**config, "commitment": config.get("commitment") or self._known.commitment}]

    # ---- accounts ------------------------------------------------------------------------------------------

    async def _get_account_info(self, params: list[Any]) -> bytes:
        pubkey, config = r.parse_account_info(params)
        slot, accounts = await self._read([pubkey], config)
        return r.with_context(slot, self._encode(accounts[pubkey], config), __version__)

    async def _get_multiple_accounts(self, params: list[Any]) -> bytes:
        pubkeys, config = r.parse_multiple_accounts(params)
        slot, accounts = await self._read(pubkeys, config)
        return r.with_context(slot, r.join(self._encode(accounts[key], config) for key in pubkeys), __version__)

    def _encode(self, account: StoredAccount, config: p.Config) -> bytes:
        return r.encode_read(account.raw if account.raw.lamports else None, config, self._parsed(account))

    def _parsed(self, account: StoredAccount) -> Parsed | None:
        return parsed_of(account.account_type, account.data_json, self._known.programs.get(account.raw.owner))

    async def _read(self, pubkeys: Sequence[str], config: p.Config) -> tuple[int, dict[str, StoredAccount]]:
        """Return the newest states of all of `pubkeys`, and the slot at which that is true."""
        slot = self._check(config)
        wanted = list(dict.fromkeys(pubkeys))
        accounts = await self._stored(wanted)
        missing = [key for key in wanted if key not in accounts]
        if missing:
            states = await read_states(self._known.hub, missing)  # has what is not known, or not sure, read again
            if states.foreign:
                raise self._known.not_served
            if states.stale:
                raise self._stale()
            accounts |= await self._stored(missing)
            unknown = next((key for key in missing if key not in accounts), None)
            if unknown is not None:
                raise Unable(INVALID_PARAMS, f"Invalid params: account {unknown} is not known here.")
        if any(
            account.raw.lamports and account.raw.owner not in self._known.programs for account in accounts.values()
        ):
            raise self._known.not_served  # it was ours once; of what it is now there are no bytes
        return self._context_slot(slot, (account.raw.slot for account in accounts.values())), accounts

    def _context_slot(self, slot: int, shown: Iterable[int]) -> int:
        """Return the slot to tell with states that were read at `slot`: none of what is shown is newer."""
        slot = max(slot, *shown, 0)
        self._known.told.tell(slot)
        return slot

    async def _stored(self, pubkeys: Sequence[str]) -> dict[str, StoredAccount]:
        """Return those that the database has and that are the newest as far as anybody knows."""
        stored = await self._reading(lambda: self._known.reads.store.raw(pubkeys)) if pubkeys else {}
        return {key: account for key, account in stored.items() if self._known.reads.trusts(key, account.raw.slot)}

    def _check(self, config: p.Config) -> int:
        """Return the slot at which is read. Raises Unable, RpcFault."""
        known = self._known
        check_commitment(config.commitment, known.commitment)
        slot = known.tip_slot()
        if slot is None or known.slots_behind():
            raise self._stale()
        if not known.commits():
            raise Unable(INTERNAL_ERROR, "Internal error: the database is behind")
        _check_context(config, slot)
        return slot

    def _stale(self) -> Unable:
        behind = self._known.slots_behind()
        message = f"Node is behind by {behind} slots" if behind else "Node is unhealthy: a gap is being healed"
        return Unable(NODE_UNHEALTHY, message, {"numSlotsBehind": behind})

    # ---- programs ------------------------------------------------------------------------------------------

    async def _get_program_accounts(self, params: list[Any]) -> bytes:
        program, config, filters = r.parse_program_accounts(params)
        if program not in self._known.programs:
            raise self._known.not_served
        slot = self._check(config)
        if not self._known.is_filled():
            reason = "not every account of the program is known here: BACKFILL=all has not completed"
            raise Unable(INVALID_PARAMS, f"Invalid params: {reason}.")
        try:
            async with asyncio.timeout(SCAN_SECONDS), self._scans:
                found, newest = await self._scan(program, config, filters)
        except TimeoutError as error:
            raise unavailable("the list took too long") from error
        slot = self._context_slot(slot, [newest])
        listed = r.join(found)
        return r.with_context(slot, listed, __version__) if config.with_context else listed

    async def _scan(self, program: str, config: p.Config, filters: tuple[p.Filter, ...]) -> tuple[list[bytes], int]:
        chosen = Bytes(
            program,
            tuple(each.size for each in filters if isinstance(each, p.DataSize)),
            tuple((each.offset, each.expected) for each in filters if isinstance(each, p.Memcmp)),
        )
        rest = [each for each in filters if isinstance(each, p.TokenAccountState)]
        found: list[bytes] = []
        size = newest = 0
        after: str | None = ""
        while after is not None:
            page, after = await self._page(chosen, after)
            for account in page:
                if not all(each.matches(account.raw.data) for each in rest):
                    continue
                found.append(r.encode_listed(account.raw, config, self._parsed(account)))
                size += len(found[-1]) + 1
                newest = max(newest, account.raw.slot)
            if size > MAX_SCAN_BYTES:
                raise Unable(SCAN_ERROR, f"accumulated scan results exceeded the limit of {MAX_SCAN_BYTES} bytes")
        return found, newest

    async def _page(self, chosen: Bytes, after: str) -> tuple[list[StoredAccount], str | None]:
        return await self._reading(lambda: self._known.reads.store.raw_page(chosen, after=after, limit=PAGE))

    # ---- the server ----------------------------------------------------------------------------------------

    async def _get_slot(self, params: list[Any]) -> bytes:
        p.expect(params, least=0, most=1)
        config = p.parse_config(params, 0)
        check_commitment(config.commitment, self._known.commitment)
        slot = self._known.tip_slot()
        if slot is None:
            raise self._stale()
        _check_context(config, slot)
        return b"%d" % slot

    async def _get_health(self, _params: list[Any]) -> bytes:
        behind = self._known.slots_behind()
        if behind:
            raise RpcFault(NODE_UNHEALTHY, f"Node is behind by {behind} slots", {"numSlotsBehind": behind})
        return b'"ok"'

    async def _get_version(self, _params: list[Any]) -> bytes:
        return get_version()


def _check_context(config: p.Config, slot: int) -> None:
    """As `check_context`; but the node may have reached the slot. Raises Unable."""
    try:
        r.check_context(config, slot)
    except RpcFault as fault:
        raise Unable(fault.code, fault.message, fault.data) from None


async def _not_ours(_params: list[Any]) -> bytes:
    raise Unable(METHOD_NOT_FOUND, "Method not found: this server answers for accounts only")


def get_version() -> bytes:
    """Return the result of getVersion, as JSON: ours, as we are no node."""
    return _encode({"feature-set": 0, "solana-core": f"account-socket {__version__}"})
