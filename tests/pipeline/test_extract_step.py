"""From files to a file: resumed after kill -9, refused with other settings, atomic, told in figures."""

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scripted_reading import Reader, answering, read, reply, source_of
from written_pdfs import Picture, lines, write_pdf

from whet.data.documents import find
from whet.data.documents.sniff import find_form
from whet.errors import InputError, InterruptedRunError
from whet.extract.state import COMMIT_EVERY
from whet.extract.targets import Targets
from whet.pipeline.answering import Answering
from whet.pipeline.extract_step import Extracted, Order, extract
from whet.records import Completion, Request
from whet.storage import locked, read_jsonl

SENTENCES = ("是日Gong<蹇義>卒。", "Sheng<夏原吉>掌部事。", "大雨雹傷禾稼。", "<楊榮>還朝，賜宴。", "Zhou<于謙>巡撫河南。")
RULES = [{"kind": "length", "field": "name", "min_chars": 2, "action": "drop"}, {"kind": "title", "field": "name"}]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(3):
        write(folder / f"{number}.txt", 12 + number)
    return folder


def write(path: Path, num: int) -> str:
    # Every name has a number, so that a text holds none twice and nothing is left to choose.
    text = "".join(SENTENCES[at % 5].replace(">", f"{path.stem}{at}>") for at in range(num))
    path.write_text(text, encoding="utf-8")
    return text


def do(run: Path, out: Path, *inputs: Path | str, engine: Any = None, **more: Any) -> Extracted:
    targets = Targets(out, **{name: more.pop(name) for name in ("accepted", "review", "is_spreadsheet") if name in more})
    overrides = tuple(more.pop("overrides", ()))
    order = Order(tuple(map(str, inputs)), run, targets, overrides, **more)
    return extract(order, answering=answering(engine or Reader()))


def unopened() -> Answering:
    """An engine that nobody may open: a model that is loaded for nothing takes its time."""
    return replace(answering(Reader()), open=lambda: pytest.fail("it was opened"))


def names(out: Path) -> list[str]:
    return [row["values"]["name"]["text"] for row in read_jsonl(out)]


def marked(text: str) -> list[str]:
    return [record["name"] or "" for record in read(text)]


def test_a_folder_becomes_rows_in_the_order_of_its_documents(run: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    extracted = do(run, out, corpus)
    texts = {str(path): path.read_text(encoding="utf-8") for path in sorted(corpus.iterdir())}
    assert names(out) == [name for text in texts.values() for name in marked(text)]
    for row in read_jsonl(out):
        assert list(row) == [
            "id", "document", "page", "chunk", "values", "quote", "confidence", "is_accepted", "flags", "run", "adapter"
        ]  # fmt: skip
        assert (len(row["id"]), len(row["chunk"]), row["run"], row["page"]) == (32, 32, "marked", None)
        for value in (*row["values"].values(), row["quote"]):
            assert value is None or texts[row["document"]][value["start"] : value["end"]] == value["text"]
    assert len({row["id"] for row in read_jsonl(out)}) == len(names(out))
    figures = json.loads((tmp_path / "out.jsonl.summary.json").read_text(encoding="utf-8"))
    assert figures == extracted.figures
    assert figures["records"]["written"] == len(names(out))
    assert figures["records"]["said"] == len(names(out)) + sum(figures["records"]["merged"].values())
    assert figures["documents"]["in_output"] == 3
    assert not (tmp_path / "out.jsonl.failed.jsonl").exists()
    assert not list(tmp_path.glob(".*part"))


def test_pages_of_a_pdf_are_told_of_records_and_values(run: Path, tmp_path: Path) -> None:
    texts = ["是日Gong<蹇義>卒。", "大雨。", "<于謙>巡撫河南。"]
    (tmp_path / "a.pdf").write_bytes(write_pdf([lines(50, 780, [text]) for text in texts]))
    do(run, tmp_path / "out.jsonl", tmp_path / "a.pdf")
    rows = list(read_jsonl(tmp_path / "out.jsonl"))
    assert [(row["values"]["name"]["text"], row["page"], row["values"]["name"]["page"]) for row in rows] == [
        ("蹇義", 1, 1),
        ("于謙", 3, 3),
    ]


def test_running_again_asks_nothing_and_a_grown_corpus_its_new_chunks_only(
    run: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, engine, opened = tmp_path / "out.jsonl", Reader(), list[str]()
    do(run, out, corpus)
    before = out.read_bytes()
    monkeypatch.setattr(find, "find_form", lambda name, *given: (opened.append(Path(name).name), find_form(name, *given))[1])
    do(run, out, corpus, engine=engine)
    assert (engine.asked, out.read_bytes(), opened) == ([], before, [])
    text = write(corpus / "9.txt", 4)
    figures = do(run, out, corpus, engine=engine).figures
    assert set(engine.asked) <= {text[start:end] for start, end in itertools.combinations(range(len(text) + 1), 2)}
    assert (figures["documents"]["unchanged"], figures["chunks"]["asked"]) == (3, len(engine.asked))
    assert opened == ["9.txt"]
    assert names(out)[-3:] == marked(text)
    (corpus / "0.txt").unlink()
    assert do(run, out, corpus, engine=engine).figures["documents"]["gone"] == 1
    assert not [row for row in read_jsonl(out) if row["document"].endswith("0.txt")]


def test_other_settings_are_refused_on_the_same_output_and_taken_anew(run: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    do(run, out, corpus)
    before = out.read_bytes()
    other = ("extract.chunks.size=80", "task.constraint=json")
    with pytest.raises(InputError, match=r"extract\.chunks\.size is 80, it was 60.*--anew") as refused:
        do(run, out, corpus, overrides=other)
    assert "task.constraint is json, it was grounded" in str(refused.value)
    assert out.read_bytes() == before
    assert do(run, out, corpus, overrides=other, is_anew=True).figures["chunks"]["asked"] > 0
    assert names(out) == [name for path in sorted(corpus.iterdir()) for name in marked(path.read_text(encoding="utf-8"))]


def test_other_rules_ask_nothing_again(run: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    (corpus / "z.txt").write_text("<上>幸。<皇太子>見。<于謙>至。", encoding="utf-8")
    do(run, out, corpus)
    num = len(names(out))
    rules = f"extract.rules={json.dumps(RULES)}"
    figures = extract(Order((str(corpus),), run, Targets(out), (rules,)), answering=unopened()).figures
    assert (figures["records"]["dropped"], figures["records"]["flagged"]) == ({"length": 1}, {"title": 1})
    assert len(names(out)) == num - 1
    assert [row["flags"] for row in read_jsonl(out)][-2:] == [["title"], []]


def test_a_rule_for_a_field_that_is_not_there_is_refused(run: Path, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be changed here"):
        do(run, tmp_path / "out.jsonl", corpus, overrides=("task.prompt=x",))
    rules = 'extract.rules=[{"kind":"title","field":"rank"}]'
    with pytest.raises(Exception, match=r"no field 'rank'; it has name, office"):
        do(run, tmp_path / "out.jsonl", corpus, overrides=(rules,))


def test_ctrl_c_writes_what_is_done_and_the_next_run_goes_on(run: Path, corpus: Path, tmp_path: Path) -> None:
    out, count = tmp_path / "out.jsonl", itertools.count()

    def stop(request: Request) -> Completion:
        if next(count) == 6:
            raise KeyboardInterrupt
        return reply(request)

    with pytest.raises(InterruptedRunError, match="running again goes on from here"):
        do(run, out, corpus, engine=Reader(stop))
    early = names(out)
    assert len(early) > 0
    assert json.loads((tmp_path / "out.jsonl.summary.json").read_text(encoding="utf-8"))["is_whole"] is False
    engine = Reader()
    do(run, out, corpus, engine=engine)
    whole = tmp_path / "whole.jsonl"
    asked = do(run, whole, corpus).figures["chunks"]["asked"]
    assert out.read_bytes() == whole.read_bytes()
    assert len(engine.asked) == asked - 6


def test_failures_are_listed_with_their_replies_and_decide_the_exit(run: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"

    def garble(request: Request) -> Completion:
        return replace(reply(request), text="[{") if "大雨" in source_of(request) else reply(request)

    extracted = do(run, out, corpus, "/dev/null", engine=Reader(garble))
    failed = list(read_jsonl(tmp_path / "out.jsonl.failed.jsonl"))
    chunks = [row for row in failed if "chunk" in row]
    assert extracted.has_failed
    assert len(chunks) == extracted.figures["chunks"]["failed"] > 0
    assert {row["reply"] for row in chunks} == {"[{"}
    assert not do(run, out, corpus, overrides=("extract.max_failed=1.0",)).has_failed
    assert not do(run, out, corpus, is_retry=True).has_failed
    assert not (tmp_path / "out.jsonl.failed.jsonl").exists()


@pytest.mark.end_to_end
def test_a_run_that_is_killed_again_and_again_gives_what_an_undisturbed_one_gives(run: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number in range(4):
        write(corpus / f"{number}.txt", 160)
    (whole, killed), log = (tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"), tmp_path / "log.txt"
    num = do(run, whole, corpus).figures["chunks"]["asked"]
    log.touch()
    kills = 0
    for goal in (num // 5, num // 2, 10 * num):
        process = start(run, killed, log, corpus)
        if wait_until(lambda goal=goal: len(asked(log)) >= goal, process):
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
        assert not killed.exists() or killed.read_bytes() == whole.read_bytes()
    assert (kills, process.returncode) == (2, 0)
    assert killed.read_bytes() == whole.read_bytes()
    repeated = sum(count - 1 for count in Counter(asked(log)).values())
    assert len(set(asked(log))) == len(asked(log)) - repeated == num
    assert repeated <= kills * (COMMIT_EVERY + 4)


def start(run: Path, out: Path, log: Path, corpus: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(Path(__file__).parents[1] / "extract_at_work.py"), *map(str, (run, out, log, corpus))]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def asked(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8").splitlines()


def wait_until(is_so: Callable[[], bool], process: subprocess.Popen[bytes]) -> bool:
    """Whether something came to be before the process ended."""
    while process.poll() is None:
        if is_so():
            return True
        time.sleep(0.01)
    return False


def test_tables_hold_the_same_records(run: Path, corpus: Path, tmp_path: Path) -> None:
    from pyarrow import parquet

    (corpus / "z.txt").write_text("<于謙>至。", encoding="utf-8")
    for name in ("out.jsonl", "out.csv", "out.parquet"):
        do(run, tmp_path / name, corpus)
    rows = list(read_jsonl(tmp_path / "out.jsonl"))
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    columns = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    for row, line, typed in zip(rows, table, columns, strict=True):
        name, office = row["values"]["name"], row["values"]["office"] or {}
        assert (line["name"], line["name_start"], line["office"]) == (name["text"], str(name["start"]), office.get("text") or "")
        assert (typed["name"], typed["name_start"], typed["office"]) == (name["text"], name["start"], office.get("text"))
        assert (line["quote"], typed["quote_end"], typed["flags"]) == (row["quote"]["text"], row["quote"]["end"], [])


@pytest.mark.parametrize("is_spreadsheet", [False, True])
def test_cells_that_spreadsheets_would_compute_are_counted_and_on_demand_disarmed(
    run: Path, tmp_path: Path, is_spreadsheet: bool
) -> None:
    (tmp_path / "a.txt").write_text("=1+2 <于謙>。", encoding="utf-8")
    out = tmp_path / "out.csv"
    figures = do(run, out, tmp_path / "a.txt", is_spreadsheet=is_spreadsheet).figures
    assert figures["files"][str(out)] == {"rows": 1, "formulas": 1}
    assert out.read_bytes().startswith(b"\xef\xbb\xbf") == is_spreadsheet
    assert ("'=1+2" in out.read_text(encoding="utf-8")) == is_spreadsheet


@pytest.mark.parametrize(
    ("content", "name", "told"),
    [
        (b"", "a.txt", "empty"),
        (" \u3000\n\t".encode(), "a.txt", "nothing but white space"),
        (bytes(range(256)) * 20, "a.bin", "a.bin"),
        (b'{"words": "x"}\n', "a.jsonl", "text"),
        (b"%PDF-1.7 broken", "a.pdf", "damaged"),
        (write_pdf([[Picture()]]), "a.pdf", "image"),
    ],
)
def test_an_input_without_a_text_is_refused_with_its_reason_and_nothing_is_lost(
    run: Path, tmp_path: Path, content: bytes, name: str, told: str
) -> None:
    good, out = tmp_path / "good.txt", tmp_path / "out.jsonl"
    good.write_text("<于謙>至。", encoding="utf-8")
    do(run, out, good)
    before = out.read_bytes()
    (tmp_path / name).write_bytes(content)
    for _ in range(2):
        with pytest.raises(InputError, match=told):
            do(run, out, tmp_path / name)
    assert out.read_bytes() == before
    engine = Reader()
    figures = do(run, out, good, tmp_path / name, engine=engine).figures
    assert (engine.asked, names(out), figures["documents"]["in_output"] >= 1) == ([], ["于謙"], True)


def test_empty_folders_and_wrong_paths_are_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="folder without files"):
        do(run, tmp_path / "out.jsonl", tmp_path / "nothing")
    with pytest.raises(InputError, match="no such file or folder"):
        do(run, tmp_path / "out2.jsonl", tmp_path / "none")
    assert not (tmp_path / "out.jsonl").exists()
    assert not (tmp_path / "out2.jsonl.state").exists()


def test_outputs_that_cannot_be_are_refused_before_anything_is_asked(run: Path, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text("precious", encoding="utf-8")
    with pytest.raises(InputError, match="there already, and without its state"):
        do(run, tmp_path / "mine.jsonl", corpus)
    assert (tmp_path / "mine.jsonl").read_text(encoding="utf-8") == "precious"
    with pytest.raises(InputError, match="does not say a format"):
        do(run, tmp_path / "out.xyz", corpus)
    with pytest.raises(InputError, match="is a folder"):
        do(run, corpus, corpus)
    with pytest.raises(InputError, match="same name"):
        do(run, tmp_path / "out.jsonl", corpus, accepted=tmp_path / "out.jsonl")
    with pytest.raises(InputError, match="can't be written"):
        do(run, Path("/proc/none/out.jsonl"), corpus)
    with locked(tmp_path / "out.jsonl.state"), pytest.raises(InputError, match="another whet is at work"):
        do(run, tmp_path / "out.jsonl", corpus)


@pytest.mark.end_to_end
def test_a_full_disk_is_told_and_what_was_done_is_kept(run: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, 120_000));"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "sys.argv[1:] = sys.argv[1:]; import runpy; sys.path.insert(0, sys.argv[5]);"
        "import extract_at_work; sys.argv[5:] = sys.argv[6:]; "
        "from whet.errors import WhetError\n"
        "try:\n extract_at_work.main()\nexcept WhetError as error:\n print(error); sys.exit(2)"
    )
    for number in range(30):
        write(corpus / f"big{number}.txt", 40)
    words = [sys.executable, "-c", code, *map(str, (run, out, tmp_path / "log.txt", corpus))]
    words.insert(7, str(Path(__file__).parents[1]))
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "Free some space" in done.stdout
    assert "Traceback" not in done.stderr
    before = len(asked(tmp_path / "log.txt"))
    engine = Reader()
    do(run, out, corpus, engine=engine)
    whole = do(run, tmp_path / "whole.jsonl", corpus).figures["chunks"]["asked"]
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert len(engine.asked) <= whole - before + COMMIT_EVERY + 4


def test_a_damaged_state_is_told(run: Path, corpus: Path, tmp_path: Path) -> None:
    state = tmp_path / "out.jsonl.state"
    state.mkdir()
    (state / "state.sqlite").write_bytes(b"no database at all, " * 100)
    with pytest.raises(InputError, match=r"can't be used .*--anew"):
        do(run, tmp_path / "out.jsonl", corpus)
    assert do(run, tmp_path / "out.jsonl", corpus, is_anew=True).figures["records"]["written"] > 0


def test_names_and_texts_with_broken_characters_go_through(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / os.fsdecode(b"\xff\xfe.txt")).write_text("<于謙>至。", encoding="utf-8")
    (folder / "rows.jsonl").write_text(json.dumps({"text": "<蹇義>卒。\x00<𠮷>"}) + "\n", encoding="utf-8")
    for name in ("out.jsonl", "out.csv", "out.parquet"):
        do(run, tmp_path / name, folder)
    assert names(tmp_path / "out.jsonl") == ["蹇義", "𠮷", "于謙"]
