"""The folder that a user stands in, and the command line in it."""

from pathlib import Path

import pytest
from planted_rows import Whet


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the user stands in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def whet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: Path) -> Whet:
    return Whet(monkeypatch, capsys, place)
