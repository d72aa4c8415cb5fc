"""What is installed is locked by name, version and hash, wherever it is fetched from."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCKS = (
    "requirements/run.txt",
    "requirements/dev.txt",
    "tests/node/package-lock.json",
    "clients/typescript/package-lock.json",
)


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_host(lock: str) -> None:
    """No lock file holds an address; npm adds those of `funding`, which are to be taken out."""
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert [line.strip() for line in text.splitlines() if "://" in line] == []
    assert "sha512-" in text or "sha256:" in text
