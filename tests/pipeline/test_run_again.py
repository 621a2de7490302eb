"""What a second run does again, and which adapter is asked."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_runs import Log, step_in

from whet.errors import InputError
from whet.evaluate.report import Report
from whet.pipeline.ask import ask_run
from whet.pipeline.bench import Bench
from whet.pipeline.compare import compare_folders
from whet.pipeline.run import evaluate_folder, saved_recipe
from whet.pipeline.train_step import train_key, trained_adapter
from whet.records import Example, Message, Request
from whet.storage import locked, read_json, write_json
from whet.tasks.extraction import Extraction

pytestmark = pytest.mark.end_to_end


def test_running_again_does_nothing_again(corpus: Path, done: Path, first: tuple[Path, Report, Log]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (done / "train").rglob("*")}
    report, log = step_in(corpus, done)
    assert log.skipped == ["data", "train", "evaluate", "calibrate"]
    assert (log.ran, log.asked) == (["report"], set())
    assert {path: path.stat().st_mtime_ns for path in (done / "train").rglob("*")} == before
    assert report
    assert [system.score for system in report.systems] == [system.score for system in first[1].systems]


def test_another_learning_rate_trains_again_and_asks_only_the_specialist(corpus: Path, done: Path) -> None:
    _, log = step_in(corpus, done, "train.learning_rate=2e-3")
    assert log.skipped == ["data"]
    assert log.ran == ["train", "evaluate", "calibrate", "report"]
    assert log.asked == {"specialist", "specialist on valid"}


def test_a_step_without_its_mark_is_done_again(corpus: Path, done: Path) -> None:
    before = (done / "evaluate" / "dictionary" / "answers.jsonl").read_text(encoding="utf-8")
    (done / "marks" / "evaluate-dictionary.json").unlink()
    (done / "marks" / "data.json").unlink()
    _, log = step_in(corpus, done)
    # The same data come out, so what was made of them still holds.
    assert (log.ran, log.skipped, log.asked) == (["data", "evaluate", "report"], ["train", "calibrate"], {"dictionary"})
    assert (done / "evaluate" / "dictionary" / "answers.jsonl").read_text(encoding="utf-8") == before


def test_without_training_an_adapter_that_lies_there_is_not_asked(corpus: Path, done: Path) -> None:
    report, log = step_in(corpus, done, "train=null", "evaluate.baselines=[]")
    assert report
    assert [system.name for system in report.systems] == ["base"]
    assert report.comparisons == ()
    assert "train" not in log.ran + log.skipped


def test_an_adapter_of_an_earlier_run_does_not_pass_for_one_that_was_not_trained(
    corpus: Path, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise InputError("cpu", "out of memory")

    monkeypatch.setattr("whet.train.loop.Training.run", broken)
    with pytest.raises(InputError, match="out of memory"):
        step_in(corpus, done, "train.seed=1")
    assert not (done / "evaluate" / "specialist").exists()  # nor do its answers
    report = evaluate_folder(done, Log())
    assert [system.role for system in report.systems] == ["base", "baseline"]


def test_a_finished_folder_is_evaluated_without_its_corpus(done: Path) -> None:
    log = Log()
    assert evaluate_folder(done, log).systems
    assert log.asked == set()


def test_an_adapter_of_another_recipe_than_the_folders_is_refused(done: Path) -> None:
    path = done / "recipe.json"
    changed = read_json(path)
    changed["train"]["learning_rate"] = 0.5
    write_json(path, changed)
    for fails in (lambda: evaluate_folder(done, Log()), lambda: ask_run(done, "蹇義卒。")):
        with pytest.raises(InputError, match="trained with another recipe"):
            fails()


def test_an_adapter_is_asked_by_other_code_but_never_with_other_prompts(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whet.pipeline.bench.hash_code", lambda room: f"a newer {room}")
    bench = Bench(saved_recipe(done), done, Log())
    assert trained_adapter(bench).card["train_key"] != train_key(bench)  # it would be trained anew, and can be asked all the same
    rendered = Extraction.ask

    def asked(self: Extraction, example: Example) -> Request:
        request = rendered(self, example)
        return replace(request, messages=(*request.messages[:-1], Message("user", f"{request.messages[-1].content} ")))

    monkeypatch.setattr(Extraction, "ask", asked)
    with pytest.raises(InputError, match="prompts that read otherwise"):
        trained_adapter(Bench(saved_recipe(done), done, Log()))


def test_two_runs_do_not_work_in_one_folder(corpus: Path, done: Path) -> None:
    with locked(done):
        for fails in (lambda: step_in(corpus, done), lambda: evaluate_folder(done, Log())):
            with pytest.raises(InputError, match="another whet is at work"):
                fails()


def test_the_specialist_answers(done: Path) -> None:
    found = ask_run(done, "宣德九年，少師蹇義卒。")
    assert found.text == "宣德九年，少師蹇義卒。"
    assert bool(found.problem) != bool(found.records or found.reply == "[]")
    with pytest.raises(InputError, match="is empty"):
        ask_run(done, " ")
    shutil.rmtree(done / "train")
    with pytest.raises(InputError, match="no adapter folder"):
        ask_run(done, "蹇義卒。")


def test_answers_of_two_folders_are_compared(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = compare_folders([done / "evaluate" / "base", done])
    assert found.labels == ("copy/base", "copy/specialist")
    assert found.held[0].comparison.num_pairs == 3
    (same,) = compare_folders([done, done]).held
    assert (same.verdict, same.flips) == ("no difference shown", ())
    monkeypatch.chdir(done / "evaluate" / "base")
    assert compare_folders([Path(), Path("../specialist")]).labels == found.labels
    with pytest.raises(InputError, match="holds no answers"):
        compare_folders([done / "data", done])


def test_what_is_no_run_folder_is_named(tmp_path: Path) -> None:
    for fails in (lambda: saved_recipe(tmp_path), lambda: ask_run(tmp_path, "a"), lambda: evaluate_folder(tmp_path, Log())):
        with pytest.raises(InputError, match="no run folder"):
            fails()
    assert list(tmp_path.iterdir()) == []  # and left as it was


def test_data_that_do_not_fit_the_base_are_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train\.max_length.*2048"):
        step_in(corpus, tmp_path / "r", "train.max_length=4096")


def test_a_value_that_is_not_in_the_text_is_told() -> None:
    from whet.cli.ask import _say
    from whet.pipeline.ask import Asked
    from whet.records import Span, Value

    record = {"name": Value("蹇義", Span(2, 4)), "office": Value("太保"), "event": Value("Death"), "note": None}
    asked = Asked("少師蹇義卒。", "", (record,), False, "", frozenset({"name", "office"}))
    assert asked.to_json()["ungrounded"] == [{"record": 0, "field": "office"}]
    said = [_say(value, name in asked.spans) for name, value in record.items()]
    assert said == ["蹇義 [2:4]", "太保 (not in the text)", "Death", "–"]
