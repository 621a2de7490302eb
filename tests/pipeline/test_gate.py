"""Folders before the gate: results of suites, run folders, and the ledger of looks between them."""

import json
from pathlib import Path

import pytest
from judged_results import on_disk, result, rights

from whet.errors import InputError
from whet.evaluate.policy import GatePolicy
from whet.evaluate.run import score_to_json
from whet.pipeline.as_result import PART, groups_of_run, result_of_run
from whet.pipeline.gate import as_error, judge_folders
from whet.recipe import recipe_from
from whet.records import Score, example_to_json
from whet.storage import read_json, write_json, write_jsonl
from whet.tasks.table import open_task

QUICK = GatePolicy(resamples=999)


def folders(place: Path, num=200, mended=60, label="new") -> tuple[Path, Path]:
    """A candidate that mends some of the live system's wrong answers, both on as many questions."""
    before = [at % 2 for at in range(num)]
    now = [1 if at < 2 * mended else right for at, right in enumerate(before)]
    groups = {f"e{at}": f"d{at // 2}" for at in range(num)}
    live = on_disk(place / "live", result("live", {"exam": rights(before)}), groups)
    return on_disk(place / label, result(label, {"exam": rights(now)}), groups), live


def test_folders_are_judged_and_the_look_is_kept(tmp_path):
    found = judge_folders(*folders(tmp_path), QUICK)
    assert found.verdict.decision == "promote"
    row = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert (row["verdict"], row["exit_code"], row["error"], row["look"]) == ("promote", 0, None, 1)
    assert row["rows"][0]["num_groups"] == 100
    assert row["rows"][0]["effect"]["odds"] is None
    assert row["turned"][0]["right_to_wrong"] == []
    assert len(row["turned"][0]["wrong_to_right"]) == 60
    ledger = read_json(tmp_path / "looks.json")
    assert [(look["look"], look["verdict"], look["label"]) for look in ledger["looks"]] == [(1, "promote", "new")]


def test_the_same_questions_are_the_same_look_and_a_grown_suite_is_the_next(tmp_path):
    assert judge_folders(*folders(tmp_path, 40, 4), QUICK).verdict.look == 1
    assert judge_folders(*folders(tmp_path, 40, 4), QUICK).verdict.look == 1
    second = judge_folders(*folders(tmp_path, 80, 30), QUICK)
    assert (second.verdict.look, second.verdict.alpha) == (2, 0.025)
    third = judge_folders(*folders(tmp_path, 120, 40), QUICK)
    assert (third.verdict.look, third.verdict.decision) == (3, "refuse")
    assert judge_folders(*folders(tmp_path, 120, 40, "other"), QUICK).verdict.look == 1


def test_another_policy_after_the_first_look_is_not_believed(tmp_path):
    sides = folders(tmp_path)
    judge_folders(*sides, QUICK)
    verdict = judge_folders(*sides, GatePolicy(resamples=999, alpha=0.2)).verdict
    assert verdict.decision == "can't tell"
    assert "settled before the first look" in verdict.words
    assert judge_folders(*sides, QUICK, tmp_path / "fresh" / "looks.json").verdict.decision == "promote"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 7}, "judged with seed 0, not with seed 7"),
        ({"resamples": 1_999}, "judged with resamples 999, not with resamples 1999"),
        ({"power": 0.9, "seed": 1}, "judged with power 0.8, seed 0, not with power 0.9, seed 1"),
    ],
)
def test_nobody_draws_again_until_it_promotes(tmp_path, change, words):
    judge_folders(*folders(tmp_path, 40, 4), QUICK)
    before = (tmp_path / "looks.json").read_text()
    other = QUICK.model_copy(update=change)
    for num, mended in ((40, 4), (80, 30)):  # on the same questions, and on a grown suite
        with pytest.raises(InputError, match=words) as refused:
            judge_folders(*folders(tmp_path, num, mended), other)
        assert refused.value.place == f"{tmp_path / 'looks.json'}, look 1"
        assert refused.value.remedy.startswith("Set it back")
    assert (tmp_path / "looks.json").read_text() == before
    assert judge_folders(*folders(tmp_path, 80, 30), QUICK).verdict.look == 2
    # Another candidate is judged anew, and its own draw is kept.
    assert judge_folders(*folders(tmp_path, label="second"), other).verdict.look == 1
    draws = {row["label"]: row["draw"] for row in read_json(tmp_path / "looks.json")["looks"]}
    assert draws == {"new": QUICK.draw(), "second": other.draw()}
    assert draws["new"] == {"seed": 0, "resamples": 999, "power": 0.8}


def test_other_candidates_on_the_same_questions_are_counted(tmp_path):
    assert judge_folders(*folders(tmp_path), QUICK).num_others == 0
    assert judge_folders(*folders(tmp_path, label="second"), QUICK).num_others == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "is no ledger"), ('{"looks": []}', "is no ledger"), ('{"version": "2", "looks": []}', "is no ledger"), ('{"version": 2}', "is no ledger"), ('{"version": 2, "looks": [{"look": 1}]}', "is no ledger"),
        ('{"version": 1, "looks": []}', "is a ledger of version 1, this whet writes version 2"),
    ],
)  # fmt: skip
def test_a_ledger_that_is_none_is_named(tmp_path, text, words):
    sides = folders(tmp_path)
    (tmp_path / "looks.json").write_text(text)
    with pytest.raises(InputError, match=rf"looks\.json: {words}"):
        judge_folders(*sides, QUICK)


def test_folders_that_hold_no_result_are_named(tmp_path):
    candidate, _ = folders(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="neither the result of a suite nor a run"):
        judge_folders(candidate, tmp_path / "empty", QUICK)
    with pytest.raises(InputError, match="against itself"):
        judge_folders(candidate, candidate, QUICK)
    assert as_error(InputError("here", "is wrong", "Mend it")) == {
        "verdict": None, "exit_code": 2, "error": {"place": "here", "what": "is wrong", "remedy": "Mend it"},
    }  # fmt: skip


RECIPE = {
    "name": "tiny",
    "task": {"kind": "choice_qa"},
    "data": {"sources": [{"reader": "examples", "path": "q.jsonl", "split": "test"}]},
    "train": None,
    "evaluate": {"max_examples": None},
}


def run_folder(place: Path, name: str, num_right: int, leaks: tuple[dict, ...] = ()) -> Path:
    """A run whose base answered 60 choice questions in 20 documents."""
    from whet.records import Example

    folder = place / name
    recipe = recipe_from({**RECIPE, "task": dict(RECIPE["task"])}, [], "test", place)
    write_json(folder / "recipe.json", recipe.model_dump(mode="json"))
    examples = [
        Example(f"q{at}", f"What is {at}?", f"q.jsonl:{at}", f"d{at // 3}", "xy"[at % 2], choices=("a", "b"), answer=at % 2)
        for at in range(60)
    ]
    write_jsonl(folder / "data" / "test.jsonl", map(example_to_json, examples))
    write_jsonl(folder / "data" / "leaks.jsonl", leaks)
    left = {kind: {} for kind in ("exact", "normalised", "near", "group")}
    manifest = {
        "version": "0", "sources": [], "funnel": {}, "faults": {}, "settings": {}, "token_limit": None, "split_hash": "s",
        "leaks": {"left": left}, "statistics": {},
    }  # fmt: skip
    write_json(folder / "data" / "manifest.json", manifest)
    task = open_task(recipe.task)
    rows = []
    for at, example in enumerate(examples):
        gold = task.reply(example)
        letter = gold if at < num_right else "AB"[gold == "A"]
        score = Score(
            example.id, "read", right=letter == gold, category=example.category, detail={"letter": letter, "gold": gold}
        )
        rows.append({"id": example.id, "score": score_to_json(score)})
    write_jsonl(folder / "evaluate" / "base" / "answers.jsonl", rows)
    write_json(folder / "marks" / "evaluate-base.json", {"key": "k", "seconds": 2.0})
    return folder


def test_a_run_is_a_result_of_one_part(tmp_path):
    found = result_of_run(run_folder(tmp_path, "live", 30))
    part = found.parts[PART]
    assert (part.task, part.headline, part.value, part.num_asked, part.num_distinct) == (
        "choice_qa",
        ("accuracy", "accuracy"),
        0.5,
        60,
        60,
    )
    assert part.interval.low < 0.5 < part.interval.high
    assert (part.overlap.num_exact, part.overlap.ids) == (0, ())
    assert (part.asked.template is not None, part.latency.p95_s, part.latency.seconds) == (True, None, 2.0)
    assert len(found.scores(PART)) == 60
    assert groups_of_run(tmp_path / "live")["q5"] == "d1"
    same = result_of_run(run_folder(tmp_path, "other", 40)).parts[PART]
    assert (same.questions, same.asked) == (part.questions, part.asked)


def test_runs_go_through_the_same_gate(tmp_path):
    live, new = run_folder(tmp_path, "live", 10), run_folder(tmp_path, "new", 58)
    policy = GatePolicy(resamples=999, categories=None)
    with pytest.raises(InputError, match="against itself"):
        judge_folders(live, live / "evaluate" / "base", policy)
    found = judge_folders(new, live, policy)
    assert found.verdict.decision == "promote"
    assert found.gains.rows[0].num_groups == 20
    assert found.ledger == live.resolve() / "evaluate" / "looks.json"
    assert judge_folders(live, new, policy).verdict.decision == "refuse"


def test_answers_to_other_data_than_lie_there_are_named(tmp_path):
    folder = run_folder(tmp_path, "live", 10)
    rows = (folder / "data" / "test.jsonl").read_text().splitlines(keepends=True)
    (folder / "data" / "test.jsonl").write_text("".join(rows[1:]))
    with pytest.raises(InputError, match="answers to other examples"):
        result_of_run(folder)
