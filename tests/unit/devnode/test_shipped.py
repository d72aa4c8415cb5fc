"""The shipped recording is the recorded states, and can be made again from them."""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
import sys
from pathlib import Path

from account_socket.devnode import shipped_recording
from account_socket.sources.recording import Recording

DATA = Path(__file__).parents[2] / "data"
STATES = DATA / "public.jsonl.gz"


def test_every_state_is_shipped():
    """Each write of the shipped recording has the slot, owner, lamports and bytes of its state, in order."""
    recording = shipped_recording()
    with gzip.open(STATES, "rt", encoding="utf-8") as lines:
        states = [json.loads(line) for line in lines]
    assert recording.warning == ""
    assert len(recording.writes) == len(states) == 1081
    for write, state in zip(recording.writes, states, strict=True):
        account = write.account
        assert (account.pubkey, account.slot, account.owner) == (state["pubkey"], state["slot"], state["owner"])
        assert (account.lamports, account.data) == (state["lamports"], base64.b64decode(state["data"]))
        assert (account.executable, str(account.rent_epoch)) == (state["executable"], state["rent_epoch"])
        assert (account.lamports == 0) is state["closed"]


def test_it_can_be_made_again(tmp_path):
    """The script makes the shipped recording from the states."""
    made = tmp_path / "made.jsonl.zst"
    subprocess.run([sys.executable, DATA / "make_recording.py", STATES, "--output", made], check=True, timeout=50)
    again, shipped = Recording.load(made), shipped_recording()
    assert (again.header, again.writes) == (shipped.header, shipped.writes)
