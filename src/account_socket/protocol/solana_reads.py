"""The methods that read accounts: their parameters and their results. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from account_socket.protocol import solana_params as p
from account_socket.protocol.solana_encodings import MAX_BASE58_BYTES, Encoding, Parsed, encode_account
from account_socket.protocol.solana_jsonrpc import INVALID_PARAMS, INVALID_REQUEST, MIN_CONTEXT_SLOT, RpcFault

if TYPE_CHECKING:
    from account_socket.model import RawAccount

MAX_MULTIPLE_ACCOUNTS = 100

_LEGACY_ENCODINGS = (Encoding.BINARY, Encoding.BASE58)


def parse_account_info(params: list[Any]) -> tuple[str, p.Config]:
    """Return the account and the config of getAccountInfo. Raises RpcFault."""
    p.expect(params, least=1, most=2)
    return p.parse_read_pubkey(params[0]), p.parse_config(params, 1)


def parse_multiple_accounts(params: list[Any]) -> tuple[list[str], p.Config]:
    """Return the accounts and the config of getMultipleAccounts. Raises RpcFault."""
    p.expect(params, least=1, most=2)
    pubkeys, config = params[0], p.parse_config(params, 1)
    if not isinstance(pubkeys, list):
        raise p.invalid_params("invalid type, expected a sequence")
    if len(pubkeys) > MAX_MULTIPLE_ACCOUNTS:
        raise RpcFault(INVALID_PARAMS, f"Too many inputs provided; max {MAX_MULTIPLE_ACCOUNTS}")
    keys = [p.parse_read_pubkey(each) for each in pubkeys]
    # Agave's default is base64 here, and the legacy base58 string elsewhere.
    return keys, msgspec.structs.replace(config, encoding=config.encoding or Encoding.BASE64)


def parse_program_accounts(params: list[Any]) -> tuple[str, p.Config, tuple[p.Filter, ...]]:
    """Return the program, the config and the filters of getProgramAccounts. Raises RpcFault."""
    p.expect(params, least=1, most=2)
    program, config = p.parse_read_pubkey(params[0]), p.parse_config(params, 1)
    return program, config, p.parse_filters(config.filters)


def check_context(config: p.Config, slot: int) -> None:
    """Check that `slot`, at which is read, is not before `minContextSlot`. Raises RpcFault."""
    if config.min_context_slot is not None and config.min_context_slot > slot:
        message = "Minimum context slot has not been reached"
        raise RpcFault(MIN_CONTEXT_SLOT, message, {"contextSlot": slot})


def with_context(slot: int, value: bytes, version: str) -> bytes:
    """Return the result of a read at `slot` by a node of this version."""
    return b'{"context":{"apiVersion":"%b","slot":%d},"value":%b}' % (version.encode(), slot, value)


def join(items: Iterable[bytes]) -> bytes:
    """Return a JSON array of what is JSON already."""
    return b"[" + b",".join(items) + b"]"


def encode_listed(account: RawAccount, config: p.Config, parsed: Parsed | None = None) -> bytes:
    """Return an account of a list, with its address. Raises RpcFault as `encode_read`."""
    return b'{"pubkey":"%b","account":%b}' % (account.pubkey.encode(), encode_read(account, config, parsed))


def encode_read(account: RawAccount | None, config: p.Config, parsed: Parsed | None = None) -> bytes:
    """Return an account as JSON, null for None. Raises RpcFault: its data is too large for base58."""
    if account is None:
        return b"null"
    encoding = config.encoding or Encoding.BINARY
    data = config.data_slice.cut(account.data) if config.data_slice else account.data
    if encoding in _LEGACY_ENCODINGS and len(data) > MAX_BASE58_BYTES:
        raise RpcFault(
            INVALID_REQUEST,
            f"Encoded binary (base 58) data should be less than {MAX_BASE58_BYTES} bytes, please use Base64 encoding.",
        )
    return encode_account(account, encoding, data, parsed)
