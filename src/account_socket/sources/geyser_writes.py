"""The account writes that recorded Yellowstone updates tell of. Pure."""

from __future__ import annotations

from account_socket.model import SYSTEM_PROGRAM, RawAccount
from account_socket.sources.geyser import OddUpdateError, UpdateReader
from account_socket.sources.recorded_message import RecordedMessage
from account_socket.sources.recorded_write import RecordedWrite


class GeyserWrites:
    """
    Takes the messages in their order, gives the writes: each account update that is newer than the account's last
    one. A node that replays slots after an interruption tells some twice.

    Attributes:
        odd: how many messages could not be read.
    """

    def __init__(self) -> None:
        self._reader = UpdateReader("")
        self._newest: dict[str, tuple[int, int]] = {}
        self.odd = 0

    def take(self, message: RecordedMessage) -> list[RecordedWrite]:
        """Return the writes that a message tells of, at most one."""
        if message.received is None:
            return []
        try:
            update = self._reader.read(message.received, 0.0)
        except OddUpdateError:
            self.odd += 1
            return []
        if type(update) is not RawAccount or not self._is_newer(update):
            return []
        if not update.lamports:
            update = RawAccount(update.pubkey, update.slot, SYSTEM_PROGRAM, 0, b"", write_version=update.write_version)
        return [RecordedWrite(update, message.at_ms)]

    def _is_newer(self, account: RawAccount) -> bool:
        place = account.slot, account.write_version
        before = self._newest.get(account.pubkey)
        if before is not None and (place < before or (place == before and account.write_version)):
            return False
        self._newest[account.pubkey] = place
        return True
