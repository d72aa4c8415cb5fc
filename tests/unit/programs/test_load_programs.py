"""The folder of programs, where one of them is wrong."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest

from account_socket.errors import LayoutError
from account_socket.programs import load_programs, program_names


@pytest.mark.parametrize("document", ["not JSON", json.dumps({"address": "x"})])
def test_a_bad_idl_is_located(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, document: str) -> None:
    """What does not compile is named by its file."""
    bad = tmp_path / "some_program" / "idl.json"
    bad.parent.mkdir()
    bad.write_text(document)
    monkeypatch.setattr(resources, "files", lambda _package: tmp_path)
    with pytest.raises(LayoutError) as caught:
        load_programs()
    assert str(caught.value).startswith(f"{bad}: ")


def test_every_program_has_a_name():
    """Each program that is decoded is named after its folder, with dashes."""
    assert program_names() == {"cpamdpZCGKUy5JxQXB4dcpGPiikHawvSWAd6mEn1sGG": "meteora-damm-v2"}
    assert set(program_names()) == set(load_programs().programs)
