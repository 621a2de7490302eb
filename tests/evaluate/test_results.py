"""What a suite's evaluation leaves behind can be read back as it was written."""

from pathlib import Path

import pytest

from whet.errors import InputError
from whet.evaluate.results import Asked, Latency, Overlap, PartResult, SuiteResult, System, read_result, write_result
from whet.evaluate.statistics import Interval


def result(folder: Path) -> SuiteResult:
    part = PartResult(
        "mmlu", "general", "choice_qa", ("accuracy", "accuracy"), "q", Asked("p", "t", 1, "eos"), 10, 9, 8, 0.5, Interval(0.2, 0.8),
        {"accuracy": {"accuracy": 0.5}}, {"error": 0.1}, Latency(0.1, 0.2, 0.3, 5.0, 1.0), (("a", "b"),),
        Overlap(1, 2, ("a",), 0.4, Interval(0.1, 0.7)), {"history": (3, 0.3, Interval(0.0, 0.9))}, {"letters": {"A": 1}},
    )  # fmt: skip
    return SuiteResult(folder, "small", "f", System("base", "embedded", {"base": "x"}, 5), {"mmlu": part}, 7, 0.1, {"date": "d"})


def test_a_result_is_read_back_as_it_was_written(tmp_path):
    write_result(result(tmp_path))
    assert read_result(tmp_path) == result(tmp_path)


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"version": 1}', '{"version": 2}', '{"version": 1, "system": {"kid": 1}, "parts": 3}']
)
def test_another_file_is_named(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(InputError, match=r"result\.json"):
        read_result(tmp_path)


def test_a_folder_without_a_result_is_named(tmp_path):
    with pytest.raises(InputError, match="whet evaluate"):
        read_result(tmp_path)
