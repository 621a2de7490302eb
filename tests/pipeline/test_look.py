"""A look asks the small edition of whatever is attached, and is held against the first, question by question."""

import json
from pathlib import Path
from typing import Any

import pytest

from whet.backends.processes import Alone
from whet.engines.scripted import ScriptedEngine
from whet.errors import InputError, SettingsError
from whet.evaluate.shares import mcnemar
from whet.evaluate.statistics import paired_f1
from whet.pipeline.bench import Bench, Silent
from whet.pipeline.look import Looker, compare_outcomes, looks_key, read_small
from whet.recipe import recipe_from
from whet.records import Counts, Request
from whet.train.looks import LookSettings

ROW = {"question": "What is the thing with number", "choices": ["right", "b", "c", "d"], "answer": 0}
SUITE = """
name: s
small: {num_questions: 40}
parts:
- {name: facts, role: general, task: {kind: choice_qa, answer_by: text}, data: {kind: files, sources: [{reader: examples, path: q.jsonl}]}}
- {name: mine, role: task, task: {kind: choice_qa, answer_by: text}, data: {kind: files, sources: [{reader: examples, path: q.jsonl}]}}
"""


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    rows = [json.dumps(ROW | {"question": f"{ROW['question']} {number}?"}) for number in range(400)]
    (tmp_path / "q.jsonl").write_text("\n".join(rows))
    (tmp_path / "s.yaml").write_text(SUITE)
    raw: dict[str, Any] = {
        "name": "r", "task": {"kind": "choice_qa"}, "data": {"sources": [{"reader": "examples", "path": "q.jsonl"}]},
        "train": {"looks": {"suite": "s.yaml", "every": 2}},
    }  # fmt: skip
    return Bench(recipe_from(raw, [], "test", tmp_path), tmp_path / "run", Silent(), Alone())


def answering(bench: Bench, monkeypatch: pytest.MonkeyPatch, num_known: int) -> None:
    """An engine that knows the first so many questions of those asked, and writes B elsewhere."""
    seen: dict[str, int] = {}

    def reply(request: Request) -> str:
        text = request.messages[-1].content
        number = seen.setdefault(text, len(seen))
        right = next(line[0] for line in text.splitlines() if line.endswith(". right"))
        return right if number < num_known else "ABCD"["ABCD".index(right) - 1]

    monkeypatch.setattr(bench, "attached_engine", lambda: ScriptedEngine("s", reply))


def test_a_look_tells_a_fall_beyond_the_tolerance_and_no_other(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = bench.recipe.train.looks
    look = Looker(bench, settings)
    answering(bench, monkeypatch, 36)
    first = look(None)
    assert first.figures == {"facts": 0.9, "mine": 0.9}
    assert (first.score, first.forgotten) == (0.9, "")
    outcomes = json.loads(json.dumps(first.outcomes))  # as a checkpoint keeps them
    assert set(outcomes) == {"facts"}
    answering(bench, monkeypatch, 36)
    assert look(outcomes).forgotten == ""
    answering(bench, monkeypatch, 35)  # beyond chance it is not, though beyond no tolerance at all
    assert look(outcomes).forgotten == ""
    answering(bench, monkeypatch, 20)
    assert "facts fell by 0.400" in look(outcomes).forgotten


def test_outcomes_are_compared_as_the_statistics_do() -> None:
    first, now = [[1, 1, 0, 0]] * 30 + [[0, 1, 0, 0], [2, 0, 0, 0]], [[1, 1, 0, 0]] * 10 + [[2, 0, 0, 0]] * 22
    assert compare_outcomes(first, now, 0.95, 0) == mcnemar([True] * 30, [True] * 10 + [False] * 20)
    counts = [[1, n % 3, n % 2, 1] for n in range(20)]
    worse = [[1, 0, n % 2, 1] for n in range(20)]
    found = compare_outcomes(counts, worse, 0.95, 0)
    assert found == paired_f1([Counts(*row[1:]) for row in counts], [Counts(*row[1:]) for row in worse], 0, num_resamples=999)
    assert compare_outcomes([[0, 1, 0, 0]], [[1, 1, 0, 0]], 0.95, 0) is None


def test_the_key_of_looks_follows_their_questions(bench: Bench, tmp_path: Path) -> None:
    settings = bench.recipe.train.looks
    before = looks_key(settings)
    assert looks_key(LookSettings(suite=settings.suite, every=2)) == before
    (tmp_path / "q.jsonl").write_text(json.dumps(ROW))
    assert looks_key(settings) != before


def test_a_suite_without_a_small_edition_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SUITE.replace("small: {num_questions: 40}", ""))
    with pytest.raises(InputError, match="small edition"):
        read_small(tmp_path / "s.yaml")
    with pytest.raises(SettingsError, match="did you mean"):
        (tmp_path / "s.yaml").write_text(SUITE.replace("num_questions", "num_question"))
        read_small(tmp_path / "s.yaml")
