"""The whole way on the embedded base: a corpus, a specialist, its evidence, and an answer that is right."""

import json
from pathlib import Path

import pytest

from whet.cli.main import main
from whet.pipeline.ask import ask_run
from whet.records import Span


def test_from_corpus_to_a_right_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    settings = ["train.max_steps=96", "train.validate_every=32", "evaluate.max_examples=100", "evaluate.baselines=[]"]
    monkeypatch.setattr("sys.argv", ["whet", "demo", "--out", str(run), *settings])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code in (0, None)

    metrics = json.loads((run / "metrics.json").read_text())
    base, specialist = metrics["systems"]
    assert (base["name"], specialist["name"]) == ("base", "specialist")
    assert specialist["score"]["value"] > base["score"]["value"] + 0.15
    assert metrics["comparisons"][0]["verdict"] == "better"
    assert sum(leak["num"] for leak in metrics["leaks"]) == 0
    assert all(proof["held"] for proof in metrics["proofs"])

    # Neither the man nor the sentence is in the corpus.
    assert "蹇" not in "".join((run / "data" / f"{split}.jsonl").read_text() for split in ("train", "valid", "test"))
    [record] = ask_run(run, "宣德九年，少師蹇義卒。").records
    assert {name: value and (value.text, value.span) for name, value in record.items()} == {
        "name": ("蹇義", Span(7, 9)),
        "office": ("少師", Span(5, 7)),
    }


pytestmark = pytest.mark.end_to_end
