"""The whole way on the embedded base: a corpus, a specialist, its evidence, a right answer, a suite, and the gate."""

import importlib.util
import json
from pathlib import Path

import pytest

from whet.cli.main import main
from whet.evaluate.results import SuiteResult, read_result
from whet.pipeline.ask import ask_run
from whet.records import Span
from whet.storage import read_json, read_jsonl

pytestmark = pytest.mark.end_to_end
NUM = 8
SUITE = """
name: held-out
resamples: 499
parts:
  - {{name: officials, data: {{kind: run, path: {run}, split: test}}, max_questions: {num}}}
"""


def whet(*words: object) -> int:
    """A command's exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["whet", *map(str, words)])
        try:
            main()
        except SystemExit as left:
            return int(left.code or 0)
    return 0


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run, made once for all tests here."""
    run = tmp_path_factory.mktemp("demo") / "run"
    settings = ["train.max_steps=96", "train.validate_every=32", "evaluate.max_examples=100", "evaluate.baselines=[]"]
    assert whet("demo", "--out", run, *settings) == 0
    return run


def test_from_corpus_to_a_right_answer(demo: Path) -> None:
    metrics = json.loads((demo / "metrics.json").read_text())
    base, specialist = metrics["systems"]
    assert (base["name"], specialist["name"]) == ("base", "specialist")
    assert specialist["score"]["value"] > base["score"]["value"] + 0.15
    assert metrics["comparisons"][0]["verdict"] == "better"
    assert sum(leak["num"] for leak in metrics["leaks"]) == 0
    assert all(proof["held"] for proof in metrics["proofs"])

    # Neither the man nor the sentence is in the corpus.
    assert "蹇" not in "".join((demo / "data" / f"{split}.jsonl").read_text() for split in ("train", "valid", "test"))
    [record] = ask_run(demo, "宣德九年，少師蹇義卒。").records
    assert {name: value and (value.text, value.span) for name, value in record.items()} == {
        "name": ("蹇義", Span(7, 9)),
        "office": ("少師", Span(5, 7)),
    }


# The gate, on what the base and the specialist really answered


def gate(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict]:
    capsys.readouterr()
    code = whet("gate", *words, "--json")
    return code, json.loads(capsys.readouterr().out)


def test_the_specialist_is_promoted_over_its_base_and_not_the_other_way_round(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = demo / "evaluate" / "base"
    code, said = gate(capsys, demo, "--against", base, "--ledger", tmp_path / "there.json")
    assert (code, said["verdict"], said["candidate"], said["live"]) == (0, "promote", "run/specialist", "run/base")
    assert {check["outcome"] for check in said["checks"]} == {"pass"}
    systems = {system["name"]: system["score"]["value"] for system in json.loads((demo / "metrics.json").read_text())["systems"]}
    assert (said["rows"][0]["live"], said["rows"][0]["candidate"]) == pytest.approx((systems["base"], systems["specialist"]))
    code, said = gate(capsys, base, "--against", demo, "--ledger", tmp_path / "back.json")
    assert (code, said["verdict"]) == (1, "refuse")


def test_what_the_answers_leave_open_is_not_decided_and_nobody_rolls_again(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, ledger, policy = demo / "evaluate" / "base", tmp_path / "looks.json", tmp_path / "gate.yaml"
    _, first = gate(capsys, demo, "--against", base, "--ledger", tmp_path / "other.json")
    (improved,) = (check for check in first["checks"] if check["name"].startswith("improvement"))
    # More than was seen, and less than is excluded: only more examples would tell.
    wanted = round((improved["figure"] + improved["bounds"]["high"]) / 2, 3)
    policy.write_text(f"improvement: {{kind: absolute, at_least: {wanted}, effect: {wanted + 0.05:.3f}}}\n")
    asked = (demo, "--against", base, "--ledger", ledger, "--policy", policy)
    code, said = gate(capsys, *asked)
    assert (code, said["verdict"], said["error"]) == (2, "can't tell", None)
    (open_check,) = (check for check in said["checks"] if check["outcome"] == "can't tell")
    assert open_check["needed"] > open_check["num"] == 100
    policy.write_text(policy.read_text() + "seed: 1\n")
    code, said = gate(capsys, *asked)
    assert (code, said["verdict"]) == (2, None)
    assert said["error"]["what"] == "this candidate was judged with seed 0, not with seed 1"
    assert [row["draw"]["seed"] for row in read_json(ledger)["looks"]] == [0]


# One suite, asked of the same specialist in every form that it takes


@pytest.fixture(scope="module")
def asked(demo: Path) -> dict[str, SuiteResult]:
    """Results of the suite by form: base, run, adapter folder, fused model, and GGUF where llama.cpp is installed."""
    place = demo.parent
    (place / "suite.yaml").write_text(SUITE.format(run=demo, num=NUM))
    assert whet("fuse", demo, "-o", place / "fused") == 0
    forms: dict[str, object] = {
        "base": "embedded", "run": demo, "adapter": demo / "train" / "adapter", "fused": place / "fused",
    }  # fmt: skip
    if importlib.util.find_spec("llama_cpp") is not None:
        forms["gguf"] = place / "run.gguf"
        assert whet("export", "gguf", demo, "--type", "f32", "--no-certificate", "-o", forms["gguf"]) == 0
    for name, what in forms.items():
        words = ("evaluate", what, "--suite", place / "suite.yaml", "--out", place / "results" / name, "--training-data", demo)
        assert whet(*words) == 0
    return {name: read_result(place / "results" / name) for name in forms}


def test_every_form_of_a_specialist_is_asked_alike_and_answers_alike(asked: dict[str, SuiteResult]) -> None:
    kinds = {"base": "base", "run": "adapter", "adapter": "adapter", "fused": "model", "gguf": "gguf"}
    assert {name: result.system.kind for name, result in asked.items()} == {name: kinds[name] for name in asked}
    parts = {name: result.parts["officials"] for name, result in asked.items()}
    assert {part.num_asked for part in parts.values()} == {NUM}
    assert len({part.questions for part in parts.values()}) == 1
    assert len({part.asked for part in parts.values()}) == 1  # prompts, template, budget, stop rule, constraint
    assert all(part.overlap is not None and part.overlap.ids == () for part in parts.values())
    said = {
        name: [row["text"] for row in read_jsonl(result.folder / "officials" / "answers.jsonl")] for name, result in asked.items()
    }
    assert said["run"] == said["adapter"]
    assert said["run"] != said["base"]
    # A fused model is rounded as its base is, and llama.cpp keeps its caches in 16 bits: single answers may turn.
    for name in asked.keys() - {"base", "run", "adapter"}:
        assert sum(one == other for one, other in zip(said[name], said["run"], strict=True)) >= NUM - 2


def test_forms_go_side_by_side_and_few_answers_decide_nothing(
    asked: dict[str, SuiteResult], demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = demo.parent / "results"
    capsys.readouterr()
    assert whet("compare", *(results / name for name in asked), "--json", "--html", tmp_path / "page.html") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["differences"] == []
    assert [held["label"] for held in said["held"]] == [system["label"] for system in said["systems"]][1:]
    assert "Paired tests" in (tmp_path / "page.html").read_text()
    # The specialist against itself in another form: no gain, and too few answers to exclude one or a loss.
    code, verdict = gate(capsys, results / "fused", "--against", results / "run")
    assert code in (1, 2) and verdict["verdict"] != "promote"
    # Three questions can't promote anything: the exact test has no p-value below 1/8.
    for name in ("base", "run"):
        what = "embedded" if name == "base" else demo
        words = ("--suite", demo.parent / "suite.yaml", "--out", tmp_path / name, "--training-data", demo)
        assert whet("evaluate", what, "parts.0.max_questions=3", *words) == 0
    code, verdict = gate(capsys, tmp_path / "run", "--against", tmp_path / "base")
    assert (code, verdict["verdict"]) == (2, "can't tell")
    (improved,) = (check for check in verdict["checks"] if check["name"].startswith("improvement"))
    assert improved["num"] == 3 < improved["needed"]
