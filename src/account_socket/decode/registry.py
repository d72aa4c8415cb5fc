"""The programs whose accounts are understood."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from account_socket.decode.decoder import Decoded, ProgramDecoder, undecoded
from account_socket.errors import LayoutError


class Registry:
    """
    Decoders by program.

    Attributes:
        programs: program address (base58) → its decoder; read-only.
    """

    def __init__(self, decoders: Iterable[ProgramDecoder]) -> None:
        programs: dict[str, ProgramDecoder] = {}
        for decoder in decoders:
            if programs.setdefault(decoder.address, decoder) is not decoder:
                raise LayoutError(f"two IDLs have the program address {decoder.address}")
        self.programs: Mapping[str, ProgramDecoder] = MappingProxyType(programs)
        self._get = programs.get

    def decode(self, owner: str, data: bytes) -> Decoded:
        """Decode an account of the program `owner` (base58); as `ProgramDecoder.decode`, it raises nothing."""
        decoder = self._get(owner)
        if decoder is None:
            return undecoded(data, "unknown_program", f"no layouts for program {owner}")
        return decoder.decode(data)
