"""`account-socket decode`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from account_socket.cli.process import emit, talk
from account_socket.errors import SettingsError

NEEDS_ARGUMENTS = True
DAMM_V2 = "cpamdpZCGKUy5JxQXB4dcpGPiikHawvSWAd6mEn1sGG"
MAX_BYTES = 16 * 2**20
"""An account holds at most 10 MiB, which is 13.4 MiB of base64."""


def command(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="Base64 text or raw account bytes; - is stdin.")],
    owner: Annotated[str, typer.Option(help="The program that owns the account.")] = DAMM_V2,
) -> None:
    """Decode the bytes of an account to JSON, in the form the server streams.

    Example: [bold]solana account --output json PUBKEY | jq -r '.account.data\\[0]' | account-socket decode -[/bold]
    """
    from account_socket.programs import load_programs  # noqa: PLC0415  (not for --help)
    from account_socket.protocol.messages import is_pubkey  # noqa: PLC0415

    if not is_pubkey(owner):
        raise SettingsError(f"--owner {owner[:60]!r} is not a base58 public key of 32 bytes")
    decoded = load_programs().decode(owner, _account_bytes(_read(file)))
    emit(f'{{"account_type":"{decoded.account_type}","data_json":{decoded.data_json.decode()}}}')
    if decoded.error is not None:
        talk(f"not decoded: {decoded.error}")
        raise typer.Exit(1)


def _read(file: str) -> bytes:
    try:
        with sys.stdin.buffer if file == "-" else Path(file).open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror or error}") from error
    if len(content) > MAX_BYTES:
        raise SettingsError(f"{file}: longer than {MAX_BYTES} bytes, which no account is")
    return content


def _account_bytes(content: bytes) -> bytes:
    """Return `content` taken as base64 where it is nothing else, white space apart; else as it is."""
    import pybase64  # noqa: PLC0415  (not for --help)

    try:
        return pybase64.b64decode(b"".join(content.split()), validate=True)
    except ValueError:
        return content
