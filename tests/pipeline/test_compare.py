"""Folders side by side: results of suites, answers of runs, blind pages and their votes, and the command over them."""

import json
import random

import pytest
from sample_results import ASKED, choice_part, choice_questions, free_part, free_questions, write_suite
from typer.testing import CliRunner

from whet.cli.main import app
from whet.errors import InputError
from whet.evaluate.blind import render
from whet.evaluate.run import score_to_json
from whet.evaluate.votes import draw_pairs, draw_sides, fingerprint
from whet.pipeline.compare import compare_folders, pairs_of, read_folders
from whet.records import Completion, Counts, Score, completion_to_json
from whet.storage import read_json, write_json, write_jsonl
from whet.tasks.choice_qa import LETTERS, ChoiceQa, ChoiceQaSettings

QUESTIONS = choice_questions(60)


@pytest.fixture(scope="module")
def suites(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    for at, (label, skill) in enumerate((("base", 0.2), ("tuned", 0.8))):
        parts = [
            choice_part(folder / label, "law", QUESTIONS, skill, 10 + at),
            free_part(folder / label, "say", free_questions(20), skill, at),
        ]
        write_suite(folder / label, "model", parts)
    return folder / "base", folder / "tuned"


def test_results_are_read_with_texts_and_labels_of_their_own(suites):
    found = compare_folders(suites)
    assert found.labels == ("model (base)", "model (tuned)")
    assert [held.verdict for held in found.held] == ["better", "better"]
    assert "over 10 groups" in found.held[1].comparison.paired.method
    flip = found.held[0].flips[0]
    example = next(example for example in QUESTIONS if example.id == flip.example_id)
    assert flip.text.startswith(example.text)
    assert flip.gold == example.choices[example.answer]


def test_letters_are_shown_as_the_choices_that_they_stood_for(suites):
    task = ChoiceQa(ChoiceQaSettings())
    for flip in compare_folders(suites).held[0].flips:
        example = next(example for example in QUESTIONS if example.id == flip.example_id)
        right, wrong = (flip.after, flip.before) if flip.kind == "gained" else (flip.before, flip.after)
        assert right == flip.gold
        letter = LETTERS[[example.choices[at] for at in task.order(example)].index(wrong)]
        assert letter in "ABCD"
        assert wrong != flip.gold


def test_texts_are_left_out_where_they_are_not_kept(tmp_path):
    for at, label in enumerate("ab"):
        write_suite(tmp_path / label, label, [choice_part(tmp_path / label, "law", QUESTIONS, 0.4 + 0.4 * at, at)])
        (tmp_path / label / "law" / "questions.jsonl").unlink()
    found = compare_folders([tmp_path / "a", tmp_path / "b"])
    assert found.held[0].flips[0].text == ""
    assert found.held[0].flips[0].gold in "ABCD"
    with pytest.raises(InputError, match="nothing to read"):
        pairs_of(read_folders([tmp_path / "a", tmp_path / "b"]))


def test_votes_are_counted_for_the_system_and_not_for_the_side(suites, tmp_path):
    read = read_folders(suites)
    pairs = pairs_of(read, ("law",))
    shown = draw_pairs(pairs, 20, 5)
    swapped = draw_sides(shown, 5)
    page = render(pairs, 20, 5, ("law",))
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    said = {pair.key: pair.b for pair in shown}
    votes = {card["key"]: "left" if card["left"] == said[card["key"]] else "right" for card in data["pairs"]}
    write_json(tmp_path / "v.json", data["ballot"] | {"votes": votes})
    found = compare_folders(suites, votes=tmp_path / "v.json").votes
    assert (found.num_for_b, found.num_for_a, found.num_pairs) == (20, 0, 20)
    assert found.num_left == len(swapped)

    with pytest.raises(InputError, match="ballot on other answers"):
        compare_folders(suites[::-1], votes=tmp_path / "v.json")
    write_json(tmp_path / "w.json", data["ballot"] | {"votes": {"0" * 16: "tie"}})
    with pytest.raises(InputError, match="did not show"):
        compare_folders(suites, votes=tmp_path / "w.json")
    with pytest.raises(InputError, match="nope is no part"):
        pairs_of(read, ("nope",))
    assert fingerprint(pairs, 5) == data["ballot"]["ballot"]


def make_run(folder, kind="extraction", seed=0, **task):
    """A run folder with answers, as its steps leave them."""
    lot = random.Random(seed)
    recipe = {
        "name": folder.name, "task": {"kind": "extraction", "fields": [{"name": "name"}], **task},
        "data": {"root": str(folder), "sources": [{"reader": "inline", "path": "a.txt", "tags": {"name": {"tag": "P"}}}]},
    }  # fmt: skip
    write_json(folder / "recipe.json", recipe)
    rows = [
        {"id": f"e{at}", "text": f"text {at}", "source": f"a:{at}", "group": f"g{at // 2}", "records": []} for at in range(30)
    ]
    write_jsonl(folder / "data" / "test.jsonl", rows)
    for name in ("base", "specialist", "crf"):
        scores = [
            Score(row["id"], "read", dict.fromkeys(("record", "name"), Counts(lot.randint(0, 2), 1, 1)), detail={"records": []})
            for row in rows
        ]
        answers = [
            {
                "id": score.example_id,
                "source": "a",
                **completion_to_json(Completion("[]", "stop", 5, 2)),
                "score": score_to_json(score),
            }
            for score in scores
        ]
        write_jsonl(folder / "evaluate" / name / "answers.jsonl", answers)
        write_json(folder / "marks" / f"evaluate-{name}.json", {"key": "k", "seconds": 12.0})
    return folder


def test_runs_are_compared_by_their_answers_and_by_how_they_were_asked(tmp_path):
    one, same, other = make_run(tmp_path / "one"), make_run(tmp_path / "same", seed=1), make_run(tmp_path / "other", max_tokens=9)
    found = compare_folders([one / "evaluate" / "base", one, one / "evaluate" / "crf", same])
    assert found.labels == ("one/base", "one/specialist", "one/crf", "same/specialist")
    assert found.differences == ()
    assert "over 15 groups" in found.held[0].comparison.paired.method
    assert found.sides[0].result.parts["test"].latency.tokens_per_s == 30 * 2 / 12
    with pytest.raises(InputError, match="budget of new tokens on test: 9 against"):
        compare_folders([one, other])
    (difference,) = compare_folders([one, other], shows_differences=True).differences
    assert difference.what == "budget of new tokens"


def test_folders_of_two_kinds_are_refused(suites, tmp_path):
    run = make_run(tmp_path / "run")
    with pytest.raises(InputError, match="is the result of a suite, the others are answers of runs"):
        read_folders([run, suites[0]])
    with pytest.raises(InputError, match="holds the answers of a run"):
        read_folders([suites[0], run])
    with pytest.raises(InputError, match="holds no answers"):
        read_folders([tmp_path, run])


def test_the_command_writes_everything_that_it_is_asked_for(suites, tmp_path):
    paths = [str(folder) for folder in suites]
    html, markdown = tmp_path / "c.html", tmp_path / "c.md"
    said = CliRunner().invoke(app, ["compare", *paths, "--html", str(html), "--markdown", str(markdown)], catch_exceptions=False)
    assert said.exit_code == 0
    assert "model (tuned) is better than model (base) on law." in said.output
    assert html.read_text("utf-8").startswith("<!DOCTYPE html>")
    assert markdown.read_text("utf-8").startswith("# model (tuned) against model (base)")
    plain = json.loads(CliRunner().invoke(app, ["compare", *paths, "--json"]).output)
    assert plain["held"][0]["verdict"] == "better"
    blind = tmp_path / "b.html"
    said = CliRunner().invoke(app, ["compare", *paths, "--blind", str(blind), "--pairs", "7", "--part", "law"])
    assert "(7 of " in said.output
    page = blind.read_text("utf-8")
    assert "tuned" not in page
    data = page.split('id="data">')[1].split("</script>")[0]
    assert "base" not in data
    ballot = json.loads(data)["ballot"]
    write_json(tmp_path / "v.json", ballot | {"votes": {}})
    said = CliRunner().invoke(app, ["compare", *paths, "--votes", str(tmp_path / "v.json")])
    assert "0 of 7 pairs read" in said.output
    assert read_json(tmp_path / "v.json")["parts"] == ["law"]


def test_other_prompts_need_a_word(tmp_path):
    from dataclasses import replace

    for at, label in enumerate("ab"):
        part = choice_part(tmp_path / label, "law", QUESTIONS, 0.5, at, asked=replace(ASKED, prompts=label * 64))
        write_suite(tmp_path / label, label, [part])
    paths = [str(tmp_path / "a"), str(tmp_path / "b")]
    refused = CliRunner().invoke(app, ["compare", *paths])
    assert isinstance(refused.exception, InputError)
    said = CliRunner().invoke(app, ["compare", *paths, "--show-differences"])
    assert said.output.startswith("Not asked in the same way: b and a differ in their prompts on law")
