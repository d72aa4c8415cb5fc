"""The recording that comes with the package."""

from __future__ import annotations

from importlib.resources import files
from io import BytesIO

from account_socket.sources.recording import Recording

SHIPPED_NAME = "meteora_damm_v2.jsonl.zst"


def shipped_recording() -> Recording:
    """Return it: 1,081 writes to 146 accounts of Meteora DAMM v2, 16 closes among them."""
    return Recording.read(BytesIO((files("account_socket.devnode") / "data" / SHIPPED_NAME).read_bytes()))
