"""A suite is asked once, goes on where it was killed, keeps errors apart, and gives the same figures again."""

import json
import re
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fake_server import FakeServer, Reply, Seen, chat

from whet.cli.suite_table import notes_of
from whet.engines.scripted import ScriptedEngine
from whet.errors import InputError, SettingsError
from whet.evaluate.policy import GatePolicy, RatePolicy
from whet.evaluate.power import detectable_share
from whet.evaluate.results import System, read_result
from whet.evaluate.shares import mcnemar, share_interval
from whet.evaluate.statistics import wilson
from whet.evaluate.suite import Suite, read_suite, suite_from
from whet.pipeline.bench import Silent
from whet.pipeline.compare import compare_folders
from whet.pipeline.gate import judge_folders
from whet.pipeline.suite_step import prepare_suite, run_suite
from whet.pipeline.systems import Candidate, Opened, find_system
from whet.recipe import recipe_from
from whet.records import Completion, Example, Message, Request
from whet.storage import write_json

NUM = 40


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    """A choice part with two categories, and sums."""
    return make(tmp_path)


def make(tmp_path: Path, **changes: Any) -> Suite:
    rows = [
        {"question": f"What is the {number}th thing of all?", "choices": [f"right {number}", "b", "c", "d"], "answer": 0,
         "category": "odd" if number % 2 else "even"}
        for number in range(NUM)
    ]  # fmt: skip
    write_rows(tmp_path / "choice.jsonl", [*rows, *rows[:3]])
    sums = [{"question": f"How much is {number} and {number}?", "answer": f"Both.\n#### {2 * number}"} for number in range(NUM)]
    write_rows(tmp_path / "sums.jsonl", sums)
    raw: dict[str, Any] = {
        "name": "both", "resamples": 199,
        "parts": [
            {"name": "facts", "role": "general", "task": {"kind": "choice_qa", "answer_by": "text"},
             "data": {"kind": "files", "sources": [{"reader": "examples", "path": "choice.jsonl"}]}},
            {"name": "sums", "task": {"kind": "free_qa", "metric": "numeric"},
             "data": {"kind": "files", "sources": [{"reader": "examples", "path": "sums.jsonl"}]}},
        ],
    }  # fmt: skip
    return suite_from(raw | changes, {}, "test", tmp_path)


def candidate(reply: Callable[[Request], str | Completion], label: str = "scripted") -> Candidate:
    @contextmanager
    def opened():
        yield Opened(ScriptedEngine(label, reply), None, "its end", is_timed=True)

    return Candidate(System("server", label, {"name": label}), opened)


def knower(request: Request) -> str:
    """Knows every fact, and every sum below 20."""
    text = request.messages[-1].content
    if "How much" in text:
        number = int(text.split()[3])
        return f"That is {2 * number}." if number < 20 else "Who knows?"
    return next(line[0] for line in text.splitlines() if ". right" in line)


def test_figures_are_those_of_counting(suite: Suite, tmp_path: Path) -> None:
    result = run_suite(suite, candidate(knower), tmp_path / "out", Silent())
    facts, sums = result.parts["facts"], result.parts["sums"]
    assert (facts.value, facts.num_asked, facts.num_distinct, len(facts.duplicates)) == (1.0, NUM, NUM, 3)
    assert facts.interval == wilson(NUM, NUM)
    assert {name: (num, value) for name, (num, value, _) in facts.categories.items()} == {"even": (20, 1.0), "odd": (20, 1.0)}
    assert (sums.value, sums.num_scored, sums.rates["unread"]) == (1.0, 20, 0.5)
    assert sums.extra["of_all"]["accuracy"] == 0.5
    assert sums.extra["intervals"]["rate.unread"]["low"] == pytest.approx(wilson(20, 40).low)
    assert sum(found["num"] for found in facts.extra["by_position"].values()) == NUM
    again = read_result(tmp_path / "out")
    assert again == result
    assert len(again.scores("facts")) == len(again.questions("facts")) == NUM
    assert facts.latency.p50_s is not None and facts.latency.p50_s <= facts.latency.p95_s <= facts.latency.p99_s


def test_a_run_that_is_killed_goes_on_without_asking_twice(suite: Suite, tmp_path: Path) -> None:
    whole = run_suite(suite, candidate(knower), tmp_path / "whole", Silent())
    asked: list[str] = []

    def dies(request: Request) -> str:
        if len(asked) == 25:
            raise KeyboardInterrupt
        asked.append(request.messages[-1].content)
        return knower(request)

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run_suite(suite, candidate(dies), out, Silent())
    assert not (out / "result.json").exists()
    with (out / "facts" / "asked.jsonl").open("a") as file:
        file.write('{"id": "half a li')  # what a kill in the middle of a line leaves
    rest: list[str] = []

    def goes_on(request: Request) -> str:
        rest.append(request.messages[-1].content)
        return knower(request)

    found = run_suite(suite, candidate(goes_on), out, Silent())
    assert len(asked) + len(rest) == 2 * NUM == len({*asked, *rest})
    for name, part in found.parts.items():
        assert (part.value, part.interval, part.measures, part.rates, part.questions) == (
            whole.parts[name].value, whole.parts[name].interval, whole.parts[name].measures, whole.parts[name].rates,
            whole.parts[name].questions,
        )  # fmt: skip
        assert found.scores(name) == whole.scores(name)
    run_suite(suite, candidate(lambda request: pytest.fail("asked again")), out, Silent())


def test_errors_are_no_answers_and_are_asked_again(suite: Suite, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def down(request: Request) -> Completion:
        return Completion("A", "error", error="no route to host")  # the text must not count, even if it is a letter

    failed = run_suite(suite, candidate(down), out, Silent())
    for part in failed.parts.values():
        assert (part.value, part.interval, part.measures, part.categories) == (None, None, {}, {})
        assert part.rates["error"] == 1.0
        assert part.num_scored == 0
    assert len((out / "facts" / "answers.jsonl").read_text().splitlines()) == NUM
    assert all(part.value == 1.0 for part in run_suite(suite, candidate(knower), out, Silent()).parts.values())


@pytest.mark.parametrize(("num_failed", "has_score"), [(2, True), (3, False)])
def test_the_error_rate_decides_whether_there_is_a_score(tmp_path: Path, num_failed: int, has_score: bool) -> None:
    left = [num_failed]

    def sometimes(request: Request) -> str | Completion:
        if left[0] and "thing" in request.messages[-1].content:
            left[0] -= 1
            raise OSError("gone")
        return knower(request)

    part = run_suite(make(tmp_path), candidate(sometimes), tmp_path / "out", Silent()).parts["facts"]
    assert (part.value is not None) == has_score
    assert part.rates["error"] == num_failed / NUM
    assert part.num_scored == NUM - num_failed


def test_what_was_met_in_training_is_told_and_taken_out(suite: Suite, tmp_path: Path) -> None:
    facts = prepare_suite(suite, tmp_path / "scratch")[0].questions.examples
    met = [example for example in facts if int(example.text.split()[3][:-2]) % 4 == 0]

    def halves(request: Request) -> str:
        """Right on what it met, A on the rest."""
        text = request.messages[-1].content
        return knower(request) if "How much" in text or any(example.text in text for example in met) else "A"

    part = run_suite(suite, candidate(halves), tmp_path / "out", Silent(), met).parts["facts"]
    assert part.overlap is not None
    assert (part.overlap.num_exact, set(part.overlap.ids)) == (len(met), {example.id for example in met})
    rest = [example for example in facts if example not in met]
    from whet.tasks.choice_qa import ChoiceQa, ChoiceQaSettings

    right = sum(ChoiceQa(ChoiceQaSettings()).reply(example) == "A" for example in rest)
    assert part.overlap.without == pytest.approx(right / len(rest))
    assert part.value == pytest.approx((right + len(met)) / NUM)


def test_another_systems_result_is_not_written_over(suite: Suite, tmp_path: Path) -> None:
    run_suite(suite, candidate(knower), tmp_path / "out", Silent())
    with pytest.raises(InputError, match="holds the result of scripted"):
        run_suite(suite, candidate(knower, "other"), tmp_path / "out", Silent())


def test_the_small_edition_is_apart_from_the_full_one(tmp_path: Path) -> None:
    suite = make(tmp_path, small={"num_questions": 5})
    small, full = prepare_suite(suite, tmp_path, is_small=True), prepare_suite(suite, tmp_path)
    for one, other in zip(small, full, strict=True):
        ids = [{example.id for example in part.questions.examples} for part in (one, other)]
        assert (len(ids[0]), len(ids[1])) == (5, NUM - 5)
        assert not ids[0] & ids[1]


def test_faults_of_a_suite_are_told_together(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "name: s\nparts:\n- {name: a, rol: task, task: {kind: choice_qa}, data: {kind: files, sources: []}}\n"
        "- {name: b, data: {kind: files, sources: [{reader: examples, path: x.jsonl}]}}\n"
    )
    with pytest.raises(SettingsError) as caught:
        read_suite(path)
    words = str(caught.value)
    assert "did you mean role?" in words
    assert "s.yaml:4" in words and "needs a task" in words


def test_what_is_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing that can be evaluated"):
        find_system(str(tmp_path / "none"))
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(InputError, match="is no system"):
        find_system(str(tmp_path / "x.txt"))
    (tmp_path / "e.yaml").write_text("engine: {kind: http, url: 'http://localhost:1/v1', model: m}\n")
    assert find_system(str(tmp_path / "e.yaml")).system.label == "m"
    assert find_system("http://localhost:1/v1#m").system == find_system("http://localhost:1/v1", model="m").system
    assert find_system("embedded").system.kind == "base"


def test_a_long_prompt_with_examples_is_held_against_a_short_one_only_where_that_is_said(tmp_path: Path) -> None:
    shown = [{"question": f"How much is {at} and {at}?", "answer": f"Both.\n#### {2 * at}"} for at in range(100, 104)]
    write_rows(tmp_path / "shown.jsonl", shown)
    short = make(tmp_path, max_error_rate=0.5)
    data = {"kind": "files", "sources": [{"reader": "examples", "path": "shown.jsonl"}]}
    sums = short.parts[1].model_dump(mode="json") | {"shots": {"num": 3, "data": data}}
    long = make(tmp_path, parts=[short.parts[0].model_dump(mode="json"), sums])
    turns: list[int] = []

    def learns(request: Request) -> str:
        """A base that copes with sums where it is shown some."""
        turns.append(len(request.messages))
        if "How much" in request.messages[-1].content and len(request.messages) > 2:
            return f"#### {2 * int(request.messages[-1].content.split()[3])}"
        return knower(request)

    base = run_suite(long, candidate(learns, "base"), tmp_path / "base", Silent())
    assert set(turns) == {1, 7}  # three questions with their answers before the one that is asked
    specialist = run_suite(short, candidate(knower, "specialist"), tmp_path / "specialist", Silent())
    assert (base.parts["sums"].num_scored, specialist.parts["sums"].num_scored) == (NUM, 20)
    with pytest.raises(InputError, match="differ in their prompts on sums"):
        compare_folders([tmp_path / "base", tmp_path / "specialist"])
    found = compare_folders([tmp_path / "base", tmp_path / "specialist"], shows_differences=True)
    assert [(difference.what, difference.parts) for difference in found.differences] == [("prompts", ("sums",))]
    assert found.held[0].comparison.num_left_out == 20  # what the specialist could not read is in no test
    policy = GatePolicy(resamples=999, overlap=None, rates=RatePolicy(unread=None, left_out=0.6))
    refused = judge_folders(tmp_path / "specialist", tmp_path / "base", policy).verdict
    assert "asked otherwise than the live system: prompts" in " ".join(check.words for check in refused.checks)
    allowed = policy.model_copy(update={"allow_changes": ("prompts", "template")})
    verdict = judge_folders(tmp_path / "specialist", tmp_path / "base", allowed, tmp_path / "other.json").verdict
    assert "changed as allowed: prompts" in [check.words for check in verdict.checks]


def test_a_recipe_means_what_its_run_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe: dict[str, Any] = {
        "name": "mine", "task": {"kind": "choice_qa"}, "data": {"sources": [{"reader": "examples", "path": "q.jsonl"}]},
    }  # fmt: skip
    Path("mine.yaml").write_text(json.dumps(recipe))
    with pytest.raises(InputError, match=r"runs/mine: holds no adapter\. Train it first"):
        find_system("mine.yaml")
    Path("mine.yaml").write_text(json.dumps(recipe | {"train": None}))
    assert find_system("mine.yaml").system.kind == "base"
    for folder in (Path("runs/mine"), Path("runs/mine-again")):
        write_json(folder / "recipe.json", recipe_from(recipe | {"train": None}, [], "a test", tmp_path).model_dump(mode="json"))
    assert [find_system(f"runs/{name}").system.label for name in ("mine", "mine-again")] == ["mine", "mine-again"]
    recipe |= {"train": None, "engine": {"kind": "http", "url": "http://localhost:1/v1", "model": "far"}}
    Path("mine.yaml").write_text(json.dumps(recipe))
    assert (find_system("mine.yaml").system.kind, find_system("mine.yaml").system.label) == ("server", "far")


@pytest.mark.end_to_end
def test_the_ready_suites_are_whole(shared_data: Path, tmp_path: Path) -> None:
    for path in sorted(Path("recipes/suites").glob("*.yaml")):
        suite = read_suite(path, [f"root={shared_data}"])
        parts = prepare_suite(suite, tmp_path)
        assert all(len(part.questions.examples) >= 30 for part in parts)
        assert isinstance(parts[0].questions.examples[0], Example)


def test_a_server_is_asked_with_times_and_cost(suite: Suite, tmp_path: Path) -> None:
    def says(seen: Seen) -> Reply:
        request = Request((Message("user", seen.text),), 9)
        return Reply(chat(knower(request), counts=(10, 4)))

    with FakeServer(says) as server:
        path = tmp_path / "engine.yaml"
        path.write_text(
            f"engine: {{kind: http, url: '{server.url}', model: m, dialect: openai, prompt_price: 100.0, completion_price: 1000.0}}\n"
        )
        result = run_suite(suite, find_system(str(path)), tmp_path / "out", Silent())
        num_sent = len(server.seen)
        again = run_suite(suite, find_system(str(path)), tmp_path / "out", Silent())
        assert len(server.seen) == num_sent == 2 * NUM
    assert result.parts["facts"].value == 1.0
    assert result.system.kind == "server"
    assert result.parts["facts"].latency.p99_s is not None and result.parts["facts"].latency.p99_s > 0
    assert result.cost == pytest.approx(2 * NUM * (10 * 100 + 4 * 1000) / 1e6) == again.cost
    assert again.parts["facts"].latency == result.parts["facts"].latency
    assert "the server's own" in result.parts["facts"].asked.stop


def test_the_smallest_difference_is_said_before_anything_is_asked(suite: Suite, tmp_path: Path) -> None:
    said: list[str] = []

    class Listening(Silent):
        def say(self, words: str) -> None:
            said.append(words)

    def refuse(request: Request) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_suite(suite, candidate(refuse), tmp_path / "out", Listening())
    smallest = detectable_share(NUM, 0.025, 0.8)
    assert smallest is not None and 0 < smallest < 1
    assert all(f"a gain of {100 * smallest:.1f} points" in words for words in said)
    assert len(said) == 2


def test_questions_that_name_their_document_are_counted_by_it(tmp_path: Path) -> None:
    rows = [
        {
            "question": f"What is the {at}th thing?",
            "choices": [f"right {at}", "b", "c", "d"],
            "answer": 0,
            "passage": f"p{at // 5}",
        }
        for at in range(NUM)
    ]
    write_rows(tmp_path / "passages.jsonl", rows)
    part = {
        "name": "read", "task": {"kind": "choice_qa", "answer_by": "text"},
        "data": {"kind": "files", "sources": [{"reader": "examples", "path": "passages.jsonl", "group_key": "passage"}]},
    }  # fmt: skip
    suite = make(tmp_path, parts=[part])
    said: list[str] = []

    class Listening(Silent):
        def say(self, words: str) -> None:
            said.append(words)

    def knows(*passages: int) -> Callable[[Request], str]:
        def reply(request: Request) -> str:
            at = int(re.search(r"the (\d+)th", request.messages[-1].content).group(1))
            right = next(line[0] for line in request.messages[-1].content.splitlines() if ". right" in line)
            return right if at // 5 in passages else "ABCD"["ABCD".index(right) - 1]

        return reply

    whole = run_suite(suite, candidate(knows(*range(6)), "more"), tmp_path / "more", Listening())
    found = whole.parts["read"]
    rights, groups = [at // 5 < 6 for at in range(NUM)], [at // 5 for at in range(NUM)]
    assert (found.value, found.num_groups) == (0.75, 8)
    assert found.interval == share_interval(rights, groups=groups) != share_interval(rights)
    worst = detectable_share(8, 0.025, 0.8)
    assert "they stand in 8 groups" in said[0]
    assert ("none would be" if worst is None else f"it takes {100 * worst:.1f} points") in said[0]
    assert any("8 groups drawn together" in line for line in notes_of(found))
    run_suite(suite, candidate(knows(0, 1), "fewer"), tmp_path / "fewer", Silent())
    held = compare_folders([tmp_path / "fewer", tmp_path / "more"]).held[0]
    # Four of eight passages turned right, twenty questions: by the question that would be beyond doubt.
    assert (held.comparison.paired.p_value, held.verdict) == (2 / 2**4, "no difference shown")
    assert held.comparison.words.endswith("40 paired examples in 8 groups.")
    assert mcnemar([at // 5 < 2 for at in range(NUM)], rights).p_value < 1e-5
    row = judge_folders(tmp_path / "more", tmp_path / "fewer", GatePolicy(resamples=999, overlap=None)).gains.rows[0]
    assert (row.num, row.num_groups) == (40, 8)
