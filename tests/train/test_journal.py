"""The journal of a run: what is kept of it, and a disk that is full while it is written."""

import os
from pathlib import Path

import pytest

from whet.errors import InputError
from whet.train.journal import GUARDS, METRICS, Journal

FULL = Path("/dev/full")  # takes nothing, as a full disk does


def test_a_journal_is_cut_back_to_where_a_run_begins(tmp_path: Path) -> None:
    for first, last in ((0, 4), (2, 3)):
        journal = Journal(tmp_path, is_writer=True)
        with journal.opened(first):
            for step in range(first + 1, last + 1):
                journal.write(METRICS, {"step": step, "from": first})
    assert (tmp_path / METRICS).read_text() == "".join(
        f'{{"step": {step}, "from": {first}}}\n' for step, first in ((1, 0), (2, 0), (3, 2))
    )
    assert (tmp_path / GUARDS).read_text() == ""


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("name", [METRICS, GUARDS])
def test_a_full_disk_is_told_with_its_place(name: str, tmp_path: Path) -> None:
    journal = Journal(tmp_path, is_writer=True)
    num_open = len(list(Path("/dev/fd").iterdir()))

    def write() -> None:
        with journal.opened(0), FULL.open("wb") as full:
            os.dup2(full.fileno(), journal._files[name].fileno())
            journal.write(name, {"step": 1})

    with pytest.raises(InputError, match=r"can't be written \(No space left on device\)") as caught:
        write()
    assert caught.value.place == str(tmp_path / name)
    assert len(list(Path("/dev/fd").iterdir())) == num_open
