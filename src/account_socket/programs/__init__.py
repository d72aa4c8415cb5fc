"""The programs that ship with the server: each a folder here with an `idl.json`, and nothing else to register."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable

import msgspec

from account_socket.decode.decoder import ProgramDecoder
from account_socket.decode.registry import Registry
from account_socket.errors import LayoutError

IDL_FILE = "idl.json"


class _Idl(msgspec.Struct):
    address: str


_decode = msgspec.json.Decoder(_Idl).decode


def load_programs() -> Registry:
    """Compile every shipped program, in the order of the folders' names. Raises LayoutError, which names the file."""
    folders = sorted(resources.files(__name__).iterdir(), key=lambda folder: folder.name)
    documents = (folder / IDL_FILE for folder in folders if folder.is_dir())
    return Registry(_compile(file) for file in documents if file.is_file())


def program_names() -> dict[str, str]:
    """Return each shipped program's address and its name, which is its folder's with dashes."""
    folders = (folder for folder in resources.files(__name__).iterdir() if (folder / IDL_FILE).is_file())
    return {_decode((folder / IDL_FILE).read_bytes()).address: folder.name.replace("_", "-") for folder in folders}


def _compile(file: Traversable) -> ProgramDecoder:
    try:
        return ProgramDecoder.from_idl(file.read_bytes())
    except LayoutError as error:
        raise LayoutError(f"{file}: {error}", hint=error.hint) from error
