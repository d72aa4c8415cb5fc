"""The programs that ship with the server: each a folder here with an `idl.json`, and nothing else to register."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable

from account_socket.decode.decoder import ProgramDecoder
from account_socket.decode.registry import Registry
from account_socket.errors import LayoutError

IDL_FILE = "idl.json"


def load_programs() -> Registry:
    """Compile every shipped program, in the order of the folders' names. Raises LayoutError, which names the file."""
    folders = sorted(resources.files(__name__).iterdir(), key=lambda folder: folder.name)
    documents = (folder / IDL_FILE for folder in folders if folder.is_dir())
    return Registry(_compile(file) for file in documents if file.is_file())


def _compile(file: Traversable) -> ProgramDecoder:
    try:
        return ProgramDecoder.from_idl(file.read_bytes())
    except LayoutError as error:
        raise LayoutError(f"{file}: {error}", hint=error.hint) from error
