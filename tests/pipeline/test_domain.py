"""Domain sets from files: what is written, that it is read again, that suites are kept clear of, and what is refused."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from whet.cli.main import app
from whet.data.formats import ExampleFiles
from whet.data.sources import read
from whet.errors import InputError
from whet.pipeline.domain import DomainSettings, Input, prepare_domain
from whet.records import Example
from whet.storage import hash_file, read_json, read_jsonl
from whet.tasks.choice_qa import ChoiceQa, ChoiceQaSettings

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
TOPICS = ["oak roots in dry soil", "rain over a salt lake", "the wall of a young cell", "sugar moving down a stem", "moss on a cold stone",
          "seeds carried by wind", "pollen on a bee", "light in deep water"]  # fmt: skip


def row(at, **more):
    return {
        "question": f"What is known of {TOPICS[at % 8]}, case {at * 7919}?",
        "choices": [f"much {at}", "little", "none"],
        "answer": at % 3,
    } | more


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [row(at, category="plants" if at < 30 else "weather") for at in range(40)]
    rows[5]["choices"] = ["same", "same", "none"]
    rows.append({"neither": 1})
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "suite.jsonl").write_text("\n".join(json.dumps(row(at)) for at in (1, 2, 31)))
    suite = {"name": "s", "parts": [{
        "name": "p", "task": {"kind": "choice_qa"}, "max_questions": 1,
        "data": {"kind": "files", "sources": [{"reader": "examples", "path": "suite.jsonl"}]},
    }]}  # fmt: skip
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    return tmp_path


MINE = (Input(Path("a.jsonl"), "MIT | <b>"),)


def prepare(out="out", inputs=MINE, against=(), form="as_they_are", **settings):
    return prepare_domain(DomainSettings(**{"name": "plants"} | settings), inputs, against, Path(out), form)


def kept(folder):
    return [
        r for r in read(ExampleFiles(reader="examples", path=Path(folder) / "plants.jsonl"), Path.cwd()) if isinstance(r, Example)
    ]


def test_all_questions_of_a_suite_are_kept_clear_of_drawn_or_not(here):
    card = prepare(against=[Path("suite.yaml")])
    assert card["left_out"]["in_suite"] == 3
    assert card["against"][0]["questions"] == 3
    assert not {row(at)["question"] for at in (1, 2, 31)} & {example.text for example in kept("out")}
    alone = prepare("alone", against=[Path("suite.jsonl")])
    assert alone["left_out"]["in_suite"] == 3


def test_what_is_written_agrees_with_the_card(here):
    card = prepare(size=20)
    assert read_json(Path("out/card.json")) == card
    assert card["data"] == {"file": "plants.jsonl", "sha256": hash_file(Path("out/plants.jsonl")), "rows": 20}
    assert card["categories"] == {"plants": {"good": 29, "kept": 10}, "weather": {"good": 10, "kept": 10}}
    assert (card["read"], card["left_out"]["faulty"], card["left_out"]["unreadable"], card["left_out"]["surplus"]) == (
        41,
        1,
        1,
        19,
    )
    rejects = list(read_jsonl(Path("out/rejects.jsonl")))
    assert len(rejects) == 21
    assert next(r for r in rejects if r["reason"] == "faulty")["place"].endswith("a.jsonl:6")
    page = Path("out/README.md").read_text("utf-8")
    assert "| MIT \\| &lt;b> |" in page
    assert hash_file(Path("a.jsonl")) in page
    assert "whether these questions stand in a test is not known" in page
    examples = kept("out")
    assert len(examples) == 20
    assert {example.category for example in examples} == {"plants", "weather"}


def test_the_same_inputs_give_the_same_bytes(here):
    prepare("one", size=15)
    prepare("two", size=15)
    for name in ("plants.jsonl", "rejects.jsonl", "card.json", "README.md"):
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes()


def test_choice_questions_become_the_conversation_that_their_task_asks(here):
    prepare("plain")
    prepare("talk", form="conversations")
    task = ChoiceQa(ChoiceQaSettings())
    for choice, talk in zip(kept("plain"), kept("talk"), strict=True):
        assert talk.messages[:-1] == task.ask(choice).messages
        assert talk.messages[-1].content == task.reply(choice)


def test_two_kinds_of_questions_need_one_form(here):
    Path("b.jsonl").write_text('{"question": "How much is seven times six?", "answer": "42"}\n')
    inputs = [Input(Path("a.jsonl")), Input(Path("b.jsonl"))]
    with pytest.raises(InputError, match="one task"):
        prepare(inputs=inputs)
    assert prepare(inputs=inputs, form="conversations")["kept"] == 40
    assert kept("out")[-1].messages[-1].content == "42"


def test_what_can_not_be_done_is_named(here):
    with pytest.raises(InputError, match="no such file"):
        prepare(inputs=[Input(Path("none.jsonl"))])
    with pytest.raises(InputError, match=r"no row is left .*in_suite"):
        prepare(against=[Path("a.jsonl")])
    (here / "mine").mkdir()
    with pytest.raises(InputError, match="is no domain set"):
        prepare("mine")
    assert not Path("out").exists()


def test_the_command_says_what_was_left_out(here):
    words = [
        "data",
        "domain",
        "--name",
        "plants",
        "--from",
        "a.jsonl=CC0",
        "--size",
        "60",
        "--against",
        "suite.yaml",
        "-o",
        "out",
    ]
    said = CliRunner().invoke(app, words, catch_exceptions=False)
    assert said.exit_code == 0
    assert "60 were asked for; there are no more good rows" in said.output
    assert read_json(Path("out/card.json"))["sources"][0]["licence"] == "CC0"
    assert isinstance(CliRunner().invoke(app, [*words, "--as", "songs"]).exception, InputError)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data beside the checkout")
def test_the_repeated_questions_of_cybermetric_are_found(tmp_path):
    card = prepare_domain(DomainSettings(name="security"), [Input(SHARED / "cybermetric")], [], tmp_path / "out")
    assert card["read"] == 2080
    left_out = card["left_out"]
    # 14 of the 80 stand in the 2,000 too; two of these pairs have other golds, so that both rows go.
    assert left_out["duplicate"] + left_out["conflicting"] // 2 + left_out["near_duplicate"] >= 14
    assert card["kept"] == 2080 - sum(left_out.values())
