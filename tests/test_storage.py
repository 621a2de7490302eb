"""Files: whole or not at all, whatever breaks; hashes that tell contents apart."""

import errno
import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet import storage
from whet.errors import InputError
from whet.storage import (
    canonical,
    clear_stages,
    hash_file,
    hash_folder,
    hash_text,
    locked,
    read_json,
    read_jsonl,
    staged_folder,
    write_json,
    write_jsonl,
    write_text,
    written,
)

values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


class BrokenError(Exception):
    """What a test breaks a writing with."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_broken_writing_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(BrokenError), written(path) as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
        raise BrokenError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_broken_row_leaves_the_old_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    assert write_jsonl(path, [1, 2]) == 2
    with pytest.raises(ZeroDivisionError):
        write_jsonl(path, (1 // at for at in (1, 0)))
    assert list(read_jsonl(path)) == [1, 2]
    assert names(tmp_path) == ["a.jsonl"]


def test_a_broken_folder_leaves_what_was_there(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    with staged_folder(folder) as staged:
        (staged / "one").write_text("1")
    with pytest.raises(BrokenError), staged_folder(folder) as staged:
        (staged / "two").write_text("2")
        raise BrokenError
    assert names(folder) == ["one"]
    assert names(tmp_path) == ["f"]


def test_a_whole_folder_replaces_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "f"
    for name in ("one", "two"):
        with staged_folder(folder) as staged:
            (staged / "sub").mkdir()
            (staged / "sub" / name).write_text(name)
    assert names(folder / "sub") == ["two"]
    assert names(tmp_path / "deep") == ["f"]


def test_a_rename_that_fails_leaves_the_old_file_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", fail)
    with pytest.raises(InputError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="can't be written"):
        write_text(tmp_path / "file" / "a.txt", "x")
    with pytest.raises(InputError, match="can't be written"), staged_folder(tmp_path / "file" / "sub"):
        raise AssertionError("not reached")
    assert names(tmp_path) == ["file"]


@pytest.fixture
def dead() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_a_killed_process_left_is_cleared_and_what_a_live_one_writes_is_not(tmp_path: Path, dead: int) -> None:
    live = f".a.txt.{os.getppid()}.part"
    for name in (f".a.txt.{dead}.part", live, f".b.txt.{dead}.part", f".a.txt.{dead}.kept"):
        (tmp_path / name).write_text("half")
    write_text(tmp_path / "a.txt", "whole")
    assert names(tmp_path) == sorted([live, f".b.txt.{dead}.part", f".a.txt.{dead}.kept", "a.txt"])


def test_a_folder_that_a_killed_process_had_put_aside_comes_back(tmp_path: Path, dead: int) -> None:
    aside = tmp_path / f".f.{dead}.old"
    aside.mkdir()
    (aside / "one").write_text("1")
    with pytest.raises(BrokenError), staged_folder(tmp_path / "f"):
        raise BrokenError
    assert names(tmp_path) == ["f"]
    assert names(tmp_path / "f") == ["one"]


def test_what_bears_our_own_number_was_left_by_another_process(tmp_path: Path) -> None:
    # In a container the first process has the same number every time.
    for kind in ("part", "old"):
        (tmp_path / f".f.{os.getpid()}.{kind}").mkdir()
        (tmp_path / f".f.{os.getpid()}.{kind}" / kind).write_text("1")
    with pytest.raises(BrokenError), staged_folder(tmp_path / "f"):
        raise BrokenError
    assert names(tmp_path / "f") == ["old"]
    with staged_folder(tmp_path / "f") as staged:
        (staged / "new").write_text("2")
    assert names(tmp_path / "f") == ["new"]
    assert names(tmp_path) == ["f"]


def test_all_that_killed_processes_left_in_a_folder_is_cleared(tmp_path: Path, dead: int) -> None:
    live = f".a.{os.getppid()}.part"
    for name in (f".step-1.{dead}.part", f".step-2.5.{dead}.old", live, "a", f".a.{dead}.kept"):
        (tmp_path / name).mkdir()
    clear_stages(tmp_path)
    assert names(tmp_path) == sorted([live, "a", f".a.{dead}.kept", "step-2.5"])
    clear_stages(tmp_path / "none")


def test_names_are_synced_in_their_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []

    def note(file: int) -> None:
        synced.append(Path(f"/proc/self/fd/{file}").readlink().name)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc")
    monkeypatch.setattr(storage.os, "fsync", note)
    write_text(tmp_path / "in" / "a.txt", "x")
    assert synced[-1] == "in"  # after the file, which had another name then
    assert len(synced) == 2
    synced.clear()
    with staged_folder(tmp_path / "f") as staged:
        (staged / "sub").mkdir()
        (staged / "sub" / "one").write_text("1")
    stage = f".f.{os.getpid()}.part"
    assert sorted(synced[:2]) == ["one", "sub"]
    assert synced[2:] == [stage, tmp_path.name]


def test_a_file_system_that_can_not_sync_folders_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = os.fsync

    def refuse(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(file)

    monkeypatch.setattr(storage.os, "fsync", refuse)
    write_text(tmp_path / "a.txt", "x")
    assert (tmp_path / "a.txt").read_text() == "x"


def test_one_at_a_time_works_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    with locked(folder), pytest.raises(InputError, match="another whet is at work"), locked(folder):
        raise AssertionError("not reached")
    with pytest.raises(BrokenError), locked(folder):
        raise BrokenError
    with locked(folder):  # an end of whatever kind opens it again
        pass
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="can't be written"), locked(tmp_path / "file"):
        raise AssertionError("not reached")


@given(rows=st.lists(values, max_size=4))
def test_rows_come_back_as_they_were(rows: list[Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("rows")
    path = folder / "a.jsonl"
    assert write_jsonl(path, rows) == len(rows)
    assert list(read_jsonl(path)) == rows
    assert path.read_bytes().count(b"\n") == len(rows)  # U+2028 and the like end no line
    write_json(folder / "a.json", rows)
    assert read_json(folder / "a.json") == rows


def test_what_is_no_json_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("1\n{\n")
    with pytest.raises(InputError) as caught:
        list(read_jsonl(path))
    assert caught.value.place == f"{path}:2"
    path.write_text('{"a": 1,\n"b": }\n')
    with pytest.raises(InputError) as caught:
        read_json(path)
    assert caught.value.place == f"{path}:2"
    path.write_bytes(b"\xff")
    with pytest.raises(InputError, match="not JSON"):
        read_json(path)
    path.write_text("[" * 200_000)
    with pytest.raises(InputError, match="not JSON"):
        read_json(path)


@given(value=st.dictionaries(st.text(), values, max_size=4))
def test_canonical_text_does_not_know_the_order_of_keys(value: dict[str, Any]) -> None:
    turned = dict(reversed(value.items()))
    assert canonical(value) == canonical(turned)
    assert json.loads(canonical(value)) == value


def test_hashes_are_sha256(tmp_path: Path) -> None:
    content = bytes(range(256)) * 9000  # more than one piece
    (tmp_path / "a").write_bytes(content)
    assert hash_file(tmp_path / "a") == hashlib.sha256(content).hexdigest()
    assert hash_text("蹇義") == hashlib.sha256("蹇義".encode()).hexdigest()
    assert hash_text("\ud800") != hash_text("\ud801")


def test_a_folder_hash_tells_names_places_and_contents_apart(tmp_path: Path) -> None:
    def folder(**files: str) -> str:
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        for name, text in files.items():
            path = root / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return hash_folder(root)

    hashes = [folder(a="1"), folder(a="2"), folder(b="1"), folder(s__a="1"), folder(a="1", b="1"), folder(a="11")]
    assert len(set(hashes)) == len(hashes)
    assert folder(b="2", a="1") == folder(a="1", b="2")
