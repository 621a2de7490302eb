"""The published artefact is made again as its runner made it, and refused for what it is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from whet.errors import InputError
from whet.evaluate.published import read_published, refuse_published
from whet.evaluate.statistics import wilson

QUESTIONS = [
    ("history", "Who wrote it?", "B"), ("biology", "What cell is it?", "C"), ("security", "What port is it?", "D"),
    ("mathematics", "How much is it?", "A"), ("philosophy", "Whose thought is it?", "A"),
]  # fmt: skip


def published(num: int, ask: Callable[[int], str], keeps: bool = False, latency: float = 0.8) -> dict[str, Any]:
    """What the runner writes: five questions in turn, a failed request answered "A"."""
    rows = []
    for number in range(num):
        category, question, gold = QUESTIONS[number % 5]
        error = ""
        try:
            said = ask(number)
        except OSError as fault:
            said, error = "A", str(fault)
        rows.append({"category": category, "question": question, "predicted": said, "expected": gold, "error": error or None})
    right = [row["predicted"] == row["expected"] for row in rows]
    by = {name: [ok for row, ok in zip(rows, right, strict=True) if row["category"] == name] for name, _, _ in QUESTIONS}
    return {
        "benchmark_name": "domains", "model_name": "specialist", "accuracy": sum(right) / num, "num_questions": num,
        "num_correct": sum(right), "avg_latency_ms": latency, "total_time_sec": 1.0, "timestamp": "2026-01-01",
        "details": {"category_accuracy": {name: sum(rights) / len(rights) for name, rights in by.items()},
                    "latencies_ms": [latency] * num} | ({"answers": rows} if keeps else {}),
    }  # fmt: skip


def down(number: int) -> str:
    raise ConnectionRefusedError("connection refused")


def write(tmp_path: Path, row: Any) -> Path:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(row))
    return path


def test_the_published_result_is_made_again_and_refused(tmp_path: Path) -> None:
    row = published(50, down)
    assert row["details"]["category_accuracy"] == {"history": 0, "biology": 0, "security": 0, "mathematics": 1, "philosophy": 1}
    found = read_published(write(tmp_path, row))
    assert {reason.kind for reason in found.reasons} == {"errors", "repeated", "constant", "unkept"}
    with pytest.raises(InputError, match="is no score") as caught:
        refuse_published(tmp_path / "results.json")
    assert all(f"\n  {kind}: " in str(caught.value) for kind in ("errors", "repeated", "constant"))


def test_with_its_answers_each_fault_is_counted(tmp_path: Path) -> None:
    words = {reason.kind: reason.words for reason in read_published(write(tmp_path, published(50, down, keeps=True))).reasons}
    assert words["errors"] == "50 of 50 requests failed, and 50 of them are scored as answers"
    assert words["repeated"].startswith("5 distinct questions among 50; one was asked 10 times")
    assert "'A'" in words["constant"]


def test_a_result_that_can_be_recounted_is_taken(tmp_path: Path) -> None:
    answers = [
        {"question": f"What is {n}?", "predicted": "ABCD"[n % 4], "expected": "ABCD"[n % 3], "error": None} for n in range(60)
    ]
    right = sum(row["predicted"] == row["expected"] for row in answers)
    row = {"accuracy": right / 60, "num_questions": 60, "num_correct": right, "details": {"answers": answers}}
    found = refuse_published(write(tmp_path, row))
    assert found.interval == wilson(right, 60)
    for answer in answers:
        del answer["error"]
    assert [reason.kind for reason in read_published(write(tmp_path, row)).reasons] == ["errors"]
    row["details"]["answers"] = [answer | {"error": None} for answer in answers]
    row["accuracy"] = 0.99
    assert [reason.kind for reason in read_published(write(tmp_path, row)).reasons] == ["shape"]


def test_an_honest_pattern_is_not_called_a_constant(tmp_path: Path) -> None:
    row = published(50, lambda number: "ABCD"[number % 4], latency=80.0)
    assert {reason.kind for reason in read_published(write(tmp_path, row)).reasons} <= {"errors", "unkept"}


@pytest.mark.parametrize("row", [[], {}, {"accuracy": "x", "num_questions": 1, "num_correct": 1},
                                 {"accuracy": 1.0, "num_questions": 1, "num_correct": 2}])  # fmt: skip
def test_anything_else_is_named(tmp_path: Path, row: Any) -> None:
    with pytest.raises(InputError, match=r"results\.json"):
        read_published(write(tmp_path, row))
