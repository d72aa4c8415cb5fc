"""
Make the recording that the package ships from a file of account states.

    python tests/data/make_recording.py STATES.jsonl.gz

The same states give the same bytes. A state is a JSON line with slot, pubkey, owner, lamports, executable,
rent_epoch and data (base64); other keys are left out.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import json
from pathlib import Path

from account_socket.model import RawAccount
from account_socket.sources.recording import RecordedWrite, RecordingHeader, RecordingWriter

SHIPPED = Path(__file__).parents[2] / "src/account_socket/devnode/data/meteora_damm_v2.jsonl.zst"
HEADER = RecordingHeader(
    program="cpamdpZCGKUy5JxQXB4dcpGPiikHawvSWAd6mEn1sGG",
    description=(
        "Meteora DAMM v2 0.1.5 to 0.2.0 in a local virtual machine: every account type, "
        "a pool through 220 swaps, accounts that close and live again."
    ),
)


def read_write(line: str) -> RecordedWrite:
    """Return the write that one line of states describes."""
    state = json.loads(line)
    account = RawAccount(
        pubkey=state["pubkey"],
        slot=state["slot"],
        owner=state["owner"],
        lamports=state["lamports"],
        data=base64.b64decode(state["data"], validate=True),
        executable=state["executable"],
        rent_epoch=int(state["rent_epoch"]),
    )
    return RecordedWrite(account)


def main() -> None:
    """Write the recording where the package ships it, or to --output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("states", type=Path)
    parser.add_argument("--output", type=Path, default=SHIPPED)
    options = parser.parse_args()
    with (
        gzip.open(options.states, "rt", encoding="utf-8") as states,
        options.output.open("wb") as file,
        RecordingWriter(file, HEADER, level=19) as recording,
    ):
        for line in states:
            recording.write(read_write(line))


if __name__ == "__main__":
    main()
