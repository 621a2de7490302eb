"""Labels of a closed set: those that train never has and those in two spellings are named; open answers give no alarm."""

import json
from pathlib import Path
from typing import Any

import pytest

from whet.doctor.look import Diagnosis, diagnose

EVENTS = ("Appointment", "Military", "Death", "Other")


def row(number: int, answer: str) -> dict[str, Any]:
    asked = f"宣德{number}年，少師奏第{number * 37}事於{number * 11}處，其文曰{number * 7919}。"
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}


def record(number: int, event: str) -> dict[str, Any]:
    return row(number, json.dumps([{"name": "少師", "event": event}], ensure_ascii=False))


def write(folder: Path, **splits: list[Any]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, rows in splits.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return folder


def labels(found: Diagnosis) -> list[tuple[str, str]]:
    return [(finding.name, finding.what) for finding in found.findings if "label" in finding.name]


@pytest.mark.parametrize("make", [record, row])
def test_a_label_that_train_never_has_is_counted(make: Any, tmp_path: Path) -> None:
    train = [make(number, EVENTS[number % 4]) for number in range(60)]
    test = [make(1000 + number, "Deth" if number < 2 else "Death") for number in range(10)]
    [(name, what)] = labels(diagnose([write(tmp_path / "data", train=train, test=test)]))
    assert name == "a label that train never has"
    assert what.startswith("2 of 10 (20%) values of ")
    assert "none of train's 4, such as 'Deth'" in what
    assert not labels(diagnose([write(tmp_path / "data", train=train, test=test[2:])]))


def test_a_label_in_two_spellings_is_named(tmp_path: Path) -> None:
    train = [record(number, "death" if number < 3 else EVENTS[number % 4]) for number in range(60)]
    [(name, what)] = labels(diagnose([write(tmp_path / "data", train=train)]))
    assert name == "one label in two spellings"
    assert "'Death' (" in what
    assert "'death' (3 times)" in what


@pytest.mark.parametrize("kind", ["open answers", "values of the text", "few rows", "long answers"])
def test_open_answers_are_quiet(kind: str, tmp_path: Path) -> None:
    def answer(number: int) -> str:
        return {
            "open answers": f"第{number}事",
            "values of the text": f"宣德{number}年" if number % 3 else "少師",
            "few rows": EVENTS[number % 4],
            "long answers": "It was said that the officials went to the river, and came back. " * (1 + number % 5),
        }[kind]

    count = 20 if kind == "few rows" else 60
    train, test = [row(number, answer(number)) for number in range(count)], [row(900, "某"), row(901, "少師奏")]
    assert not labels(diagnose([write(tmp_path / "data", train=train, test=test)]))
