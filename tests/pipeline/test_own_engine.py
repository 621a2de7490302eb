"""Whatever answers can be asked a suite by name: a file of one's own with retrieval before a server, and what is no engine."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_server import FakeServer, Reply, Seen, chat

from whet.cli import main as cli
from whet.errors import InputError
from whet.evaluate.results import read_result
from whet.pipeline.own_engine import of_own
from whet.pipeline.systems import find_system
from whet.records import Example, Message, Request
from whet.storage import read_jsonl
from whet.tasks.extraction import Extraction, ExtractionSettings, FieldSettings

NUM = 20
FACTS = {f"Who kept the seal in year {at}?": f"keeper {at}" for at in range(NUM)}
# A small RAG: finds the note that shares most words with the question, puts it before the question, asks a server.
RAG = '''
"""Retrieval before a server."""
import os
from dataclasses import replace

from notes import NOTES  # beside this file
from whet.engines.http import HttpEngine, HttpSettings
from whet.records import Message


class Rag:
    def __init__(self):
        self.engine = HttpEngine(HttpSettings(kind="http", url=os.environ["RAG_URL"], model="m", dialect="openai"))

    def answer(self, requests):
        return self.engine.answer([self._with_note(request) for request in requests])

    def _with_note(self, request):
        asked = request.messages[-1].content
        if "year 19" in asked:
            raise LookupError("no note")
        note = max(NOTES, key=lambda text: len(set(text.split()) & set(asked.replace("?", "").split())))
        return replace(request, messages=(*request.messages[:-1], Message("user", f"Note: {note}\\n\\n{asked}")))

    def close(self):
        self.engine.close()
        print("closed")


engine = Rag
'''


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A suite of free questions, and a RAG engine with its notes."""
    rows = [{"question": question, "answer": answer} for question, answer in FACTS.items()]
    (tmp_path / "facts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    part = {"name": "facts", "task": {"kind": "free_qa", "metric": "exact"},
            "data": {"kind": "files", "sources": [{"reader": "examples", "path": "facts.jsonl"}]}}  # fmt: skip
    suite = {"name": "seals", "resamples": 199, "max_error_rate": 0.1, "parts": [part]}
    (tmp_path / "suite.yaml").write_text(json.dumps(suite))  # JSON is YAML
    notes = [f"{answer} kept the seal in year {question.split()[-1][:-1]}" for question, answer in FACTS.items()]
    (tmp_path / "notes.py").write_text(f"NOTES = {notes!r}\n")
    (tmp_path / "rag.py").write_text(RAG)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("notes", None)


def whet(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["whet", *words])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def reader(seen: Seen) -> Any:
    """A server that knows nothing, and can read a note."""
    if seen.body is None:  # which kind of server is this?
        return Reply({}, 404)
    first = seen.text.split("\n")[0]
    return Reply(chat(" ".join(first.split()[1:3]) if first.startswith("Note: ") else "nobody"))


def test_a_server_and_a_rag_before_it_are_asked_the_same_suite_from_the_command_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeServer(reader) as server:
        monkeypatch.setenv("RAG_URL", server.url)
        assert whet(monkeypatch, "evaluate", f"{server.url}#m", "--suite", "suite.yaml", "--out", "bare") == 0
        assert whet(monkeypatch, "evaluate", "rag.py:engine", "--suite", "suite.yaml", "--out", "rag") == 0
        num_sent = len(server.seen)
        assert sum(seen.body is not None for seen in server.seen) == 2 * NUM - 1  # one request failed before it was sent
        assert whet(monkeypatch, "evaluate", "rag.py:engine", "--suite", "suite.yaml", "--out", "rag") == 0
        assert len(server.seen) == num_sent  # what is answered is not asked again
    assert "closed" in capsys.readouterr().out
    bare, rag = read_result(place / "bare"), read_result(place / "rag")
    assert (bare.system.kind, bare.parts["facts"].value) == ("server", 0.0)
    assert (rag.system.kind, rag.system.label, rag.parts["facts"].value) == ("engine", "rag", 1.0)
    assert (rag.parts["facts"].num_scored, rag.parts["facts"].rates["error"]) == (NUM - 1, 1 / NUM)
    failed = [row for row in read_jsonl(place / "rag" / "facts" / "answers.jsonl") if row["finish"] == "error"]
    assert [row["error"] for row in failed] == ["LookupError: no note"]
    assert rag.parts["facts"].latency.p95_s is not None
    # Both were asked alike, so they can be held against each other, and the one that reads is better.
    assert rag.parts["facts"].asked.prompts == bare.parts["facts"].asked.prompts
    capsys.readouterr()
    assert whet(monkeypatch, "compare", "bare", "rag", "--json", "--show-differences") == 0
    held = json.loads(capsys.readouterr().out)["held"][0]
    assert (held["verdict"], held["comparison"]["num_left_out"]) == ("better", 1)
    # Which template a server or an engine of one's own uses nobody knows: the gate can't tell, unless that is accepted.
    policy = place / "gate.yaml"
    asked = "overlap: null\nresamples: 999\nrates: {left_out: 0.1, error: 0.1, unread: null}\n"
    policy.write_text(asked + "allow_changes: [stop]\n")
    assert whet(monkeypatch, "gate", "rag", "--against", "bare", "--policy", "gate.yaml") == 2
    policy.write_text(asked + "allow_changes: [template, stop]\nlimits: {p95_s: 60}\n")
    assert whet(monkeypatch, "gate", "rag", "--against", "bare", "--policy", "gate.yaml") == 0


def test_choices_are_ranked_where_the_engine_can(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "class Mine:\n"
        "    def answer(self, requests): return ['B' for _ in requests]\n"
        "    def rank(self, request): return [-2.0, -1, -3.0]\n"
        "ranks = Mine()\n"
        "class Plain:\n"
        "    def answer(self, requests): return []\n"
        "plain = Plain()\n"
    )
    request = Request((Message("user", "which?"),), 1, choices=("A", "B", "C"))
    with find_system(f"{path}:ranks").open() as opened:
        assert opened.engine.rank(request) == [-2.0, -1.0, -3.0]
        (said,) = opened.engine.answer([request])
        assert (said.finish, said.error) == ("error", "answered with str, not with a whet.records.Completion")
    with find_system(f"{path}:plain").open() as opened:
        with pytest.raises(InputError, match="answer_by: text"):
            opened.engine.rank(request)
        assert [said.finish for _, said in opened.engine.answer_each([request, request])] == ["error", "error"]
    assert find_system(f"{path}:ranks").system.identity != find_system(f"{path}:plain").system.identity


def test_replies_are_held_to_their_constraint_and_ranks_to_their_choices(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from whet.records import Completion\n"
        "@dataclass\n"
        "class Mine:\n"
        "    said: str = 'I can not help with that.'\n"
        "    def answer(self, requests): return [Completion(self.said, 'stop') for _ in requests]\n"
        "    def rank(self, request): return [-1.0]\n"
    )
    task = Extraction(ExtractionSettings(fields=(FieldSettings(name="name"),)))
    asked = task.ask(Example("e", "宣德九年，少師蹇義卒。", "a:1", "g"))
    with find_system(f"{path}:Mine").open() as opened:
        assert opened.engine.answer([asked])[0].violation
        with pytest.raises(InputError, match="gave 1 numbers for 2 choices"):
            opened.engine.rank(Request((Message("user", "which?"),), 1, choices=("A", "B")))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("engine = 3", "is no engine, but int"),
        ("other = 3", "has nothing named engine. It names other"),
        ("1 / 0", r"can't be run \(ZeroDivisionError: division by zero\)"),
        ("def engine(): raise OSError('no index')", r"can't be run \(OSError: no index\)"),
        ("engine =", "can't be run"),
    ],
)
def test_what_is_no_engine_is_refused_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "own.py"
    path.write_text(text)
    before = list(sys.path)
    with pytest.raises(InputError, match=words) as refused, find_system(f"{path}:engine").open():
        pass
    assert str(path) in refused.value.place
    assert sys.path == before


def test_nothing_is_run_before_it_is_opened_and_other_words_mean_other_things(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text("raise SystemExit(3)")
    assert find_system(f"{path}:engine").system.kind == "engine"
    with pytest.raises(InputError, match="no such file"):
        find_system("nowhere.py:engine")
    assert of_own("own.py") is None
    assert of_own("embedded") is None
