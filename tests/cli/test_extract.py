"""The verb extract: faults are one line, figures are shown, and how far it is."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from scripted_reading import Reader, answering
from typer.testing import CliRunner

from whet.cli import main as cli
from whet.cli.extract_watch import ExtractWatch, say_progress
from whet.extract.progress import Tally, measure
from whet.pipeline import extract_step
from whet.recipe import recipe_from
from whet.records import Completion, Request
from whet.storage import read_jsonl, write_json

TEXT = "是日Gong<蹇義>卒。<夏原吉>掌部事。大雨。"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run without an adapter, and a text, to stand in."""
    raw = {
        "name": "marked",
        "task": {"kind": "extraction", "fields": [{"name": "name"}, {"name": "office", "nullable": True}]},
        "data": {"sources": [{"reader": "inline", "path": "a.txt", "tags": {"name": {"tag": "P"}}}]},
    }
    write_json(tmp_path / "run" / "recipe.json", recipe_from(raw, [], "test", tmp_path).model_dump(mode="json"))
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "none").mkdir()
    (tmp_path / "empty.txt").touch()
    (tmp_path / "x.bin").write_bytes(bytes(range(256)) * 9)
    (tmp_path / "rows.jsonl").write_text('{"words": "x"}\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Reader:
    """The reader in the place of the run's own specialist."""
    engine = Reader()
    monkeypatch.setattr(extract_step, "choose_answering", lambda *_, **__: answering(engine))
    return engine


def whet(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str, str]:
    """Exit code, output and errors of the command, as its entry point gives them."""
    monkeypatch.setattr(sys, "argv", ["whet", "extract", *words])
    code: Any = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = stop.code or 0
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    return code, said.out, said.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a.txt", "--run", "run", "-o", "out.jsonl"], "no adapter folder"),
        (["a.txt", "--run", "none", "-o", "out.jsonl"], "is no run folder"),
        (["a.txt", "--run", "nowhere", "-o", "out.jsonl"], "is no run folder"),
        (["b.txt", "--run", "run", "-o", "out.jsonl"], "b.txt: no such file or folder"),
        (["a.txt", "--run", "run", "-o", "out.txt"], "does not say a format"),
        (["a.txt", "--run", "run", "-o", "none"], "is a folder"),
        (["a.txt", "--run", "run", "-o", "rows.jsonl"], "is there already"),
        (["a.txt", "--run", "run", "-o", "out.jsonl", "extract.chunk.size=9"], "did you mean chunks?"),
        (["a.txt", "--run", "run", "-o", "out.jsonl", "data.root=x"], "can't be changed here"),
        (["extract.chunks.size=900", "--run", "run", "-o", "out.jsonl"], "no input is named"),
    ],
)
def test_a_users_fault_is_one_line_and_exit_code_2(
    folder: Path, capsys: Any, monkeypatch: Any, words: list[str], told: str
) -> None:
    code, out, err = whet(capsys, monkeypatch, *words)
    assert (code, out) == (2, "")
    assert err.startswith("whet: ")
    assert told in err
    assert not list(folder.glob("out.*"))


@pytest.mark.parametrize(
    ("name", "told"),
    [("none", "without files"), ("empty.txt", "empty"), ("x.bin", "x.bin"), ("rows.jsonl", "text")],
)
def test_an_input_without_text_is_one_line_and_exit_code_2(
    folder: Path, scripted: Reader, capsys: Any, monkeypatch: Any, name: str, told: str
) -> None:
    code, out, err = whet(capsys, monkeypatch, name, "--run", "run", "-o", "out.jsonl")
    assert (code, out) == (2, "")
    assert err.startswith(f"whet: {name}")
    assert told in err
    assert err.count("\n") == 1
    assert scripted.asked == []


def test_it_says_what_came_of_it(folder: Path, scripted: Reader, capsys: Any, monkeypatch: Any) -> None:
    rules = 'extract.rules=[{"kind":"length","field":"name","min_chars":3,"action":"drop"}]'
    words = ("a.txt", "x.bin", "--run", "run", "-o", "out.csv", "--constraint", "json", rules, "--spreadsheet")
    code, out, _ = whet(capsys, monkeypatch, *words)
    assert code == 0
    assert out.startswith("out.csv: 1 record from 1 document\n")
    for told in ("1 refused", "1 asked", "1 length", "out.csv.failed.jsonl says what failed"):
        assert told in out
    assert "夏原吉" in (folder / "out.csv").read_text(encoding="utf-8-sig")
    code, out, _ = whet(capsys, monkeypatch, *words, "--json")
    figures = json.loads(out)
    assert (figures["documents"]["unchanged"], figures["records"]["dropped"]) == (1, {"length": 1})
    code, _, err = whet(capsys, monkeypatch, *words[:-4], "--constraint", "grounded")
    assert (code, "task.constraint is grounded, it was json" in err) == (2, True)


def test_too_many_failures_are_exit_code_1(folder: Path, capsys: Any, monkeypatch: Any) -> None:
    def fail(request: Request) -> Completion:
        return Completion("", "error", error="no connection")

    monkeypatch.setattr(extract_step, "choose_answering", lambda *_, **__: answering(Reader(fail)))
    code, out, err = whet(capsys, monkeypatch, "a.txt", "--run", "run", "-o", "out.jsonl")
    assert (code, "1 failed" in out, "more chunks failed" in err) == (1, True, True)
    (failed,) = read_jsonl(folder / "out.jsonl.failed.jsonl")
    assert (failed["reason"], failed["text"]) == ("the engine failed: no connection", TEXT)


def test_ctrl_c_says_that_running_again_goes_on(folder: Path, capsys: Any, monkeypatch: Any) -> None:
    def stop(request: Request) -> Completion:
        raise KeyboardInterrupt

    monkeypatch.setattr(extract_step, "choose_answering", lambda *_, **__: answering(Reader(stop)))
    code, _, err = whet(capsys, monkeypatch, "a.txt", "--run", "run", "-o", "out.jsonl")
    assert (code, "running again goes on from here" in err) == (130, True)


def test_standard_input_is_read_and_called_by_its_sign(folder: Path, scripted: Reader, monkeypatch: Any) -> None:
    said = CliRunner().invoke(cli.app, ["extract", "-", "--run", "run", "-o", "out.jsonl"], input=TEXT)
    assert said.exit_code == 0, said.output
    assert {row["document"] for row in read_jsonl(folder / "out.jsonl")} == {"-"}


def test_accepted_and_other_records_can_have_files_of_their_own(
    folder: Path, scripted: Reader, capsys: Any, monkeypatch: Any
) -> None:
    words = ("a.txt", "--run", "run", "-o", "out.jsonl", "--accepted", "yes.csv", "--review", "no.jsonl")
    assert whet(capsys, monkeypatch, *words)[0] == 0
    assert (folder / "yes.csv").read_text(encoding="utf-8").count("\n") == 1
    assert len(list(read_jsonl(folder / "no.jsonl"))) == 2


def test_the_time_left_is_told_from_what_was_answered() -> None:
    tally = Tally(total_bytes=1000)
    assert (tally.seconds_left, say_progress(tally)[0]) == (None, "0 %")
    tally.bytes_behind, tally.chars_cut, tally.chars_open, tally.chars_answered = 250, 100, 20, 80
    tally.began -= 80
    assert tally.share == pytest.approx(0.2)
    assert tally.seconds_left == pytest.approx(320, rel=0.01)  # 300 characters to come and 20 open, one a second
    tally.counts.update(chunks=40, records=160, tokens=8000, failed=3)
    words = ", ".join(say_progress(tally))
    for told in ("20 %", "5 min", "40 chunks (0.5/s)", "160 records (2/s)", "100 tokens/s", "3 failed or cut"):
        assert told in words
    tally.is_read = True
    assert tally.seconds_left == pytest.approx(20, rel=0.01)
    assert say_progress(Tally())[0] == "reading"


def test_a_bar_is_shown_in_a_terminal_and_lines_elsewhere(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("whet.cli.extract_watch.SHOW_EVERY_S", 0.0)
    monkeypatch.setattr("whet.cli.extract_watch.LINE_EVERY_S", 0.0)
    screen = io.StringIO()
    for is_terminal in (True, False):
        with ExtractWatch() as watch:
            watch._console = Console(file=screen, force_terminal=is_terminal, width=90)
            watch.tell(Tally(total_bytes=10))
            watch.tell(Tally())
    assert "0 chunks" in screen.getvalue()
    assert "0 chunks" in capsys.readouterr().err


def test_sizes_of_the_inputs_are_added_up(folder: Path) -> None:
    assert measure(["a.txt", "none"]) == len(TEXT.encode())
    assert measure(["-"]) is None
    assert measure(["nowhere"]) is None
