"""The whole way on the embedded base: a corpus, a specialist, its evidence; and what a second run does again."""

import json
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from whet.data.annals.write import write
from whet.errors import InputError
from whet.evaluate.report import Report
from whet.pipeline import bench
from whet.pipeline.ask import Silent, ask_run
from whet.pipeline.bench import Bench, hash_code
from whet.pipeline.compare import compare_folders
from whet.pipeline.run import evaluate_folder, run, saved_recipe
from whet.pipeline.train_step import StoppedError, forget_checkpoints, train_key, trained_adapter
from whet.recipe import recipe_from
from whet.records import Example, Message, Request
from whet.storage import hash_folder, locked, read_json, read_jsonl, write_json
from whet.tasks.extraction import Extraction

pytestmark = pytest.mark.end_to_end
TAGS = {"name": {"tag": "P"}, "office": {"tag": "O"}}
SPLITS = ("train", "valid", "test")


class Log(Silent):
    """A watch that remembers which steps ran and who was asked."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.skipped: list[str] = []
        self.asked: set[str] = set()

    def begin(self, step: str, is_skipped: bool) -> None:
        (self.skipped if is_skipped else self.ran).append(step)

    def count(self, what: str, done: int, total: int | None) -> None:
        if total is not None:
            self.asked.add(what)


def recipe(corpus: Path, *overrides: str) -> Any:
    raw = {
        "name": "tiny",
        "task": {
            "kind": "extraction",
            "prompt": "取官員。",
            "max_tokens": 8,
            "fields": [{"name": "name"}, {"name": "office", "nullable": True}],
        },
        "data": {"sources": [{"reader": "inline", "path": f"{split}.txt", "split": split, "tags": TAGS} for split in SPLITS]},
        "train": {
            "max_steps": 2,
            "examples_per_step": 4,
            "max_length": 256,
            "validate_every": 2,
            "learning_rate": 1e-3,
            "lora": {"rank": 2},
        },
        "evaluate": {"max_examples": 3, "baselines": ["dictionary"], "resamples": 99},
    }
    return recipe_from(raw, list(overrides), "test", corpus)


def step_in(corpus: Path, folder: Path, *overrides: str) -> tuple[Report | None, Log]:
    log = Log()
    return run(recipe(corpus, *overrides), folder, log), log


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write(folder, 14, 4, 6, 0)
    return folder


@pytest.fixture(scope="module")
def first(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Report, Log]]:
    """A finished run."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    report, log = step_in(corpus, folder)
    assert report
    yield folder, report, log


@pytest.fixture
def done(first: tuple[Path, Report, Log], tmp_path: Path) -> Path:
    """A copy of the finished run, to spoil."""
    return shutil.copytree(first[0], tmp_path / "copy")


def test_a_run_leaves_its_evidence(first: tuple[Path, Report, Log]) -> None:
    folder, report, log = first
    assert log.ran == ["data", "train", "evaluate", "calibrate", "report"]
    assert log.asked == {"base", "dictionary", "specialist", "specialist on valid"}
    assert [system.name for system in report.systems] == ["base", "dictionary", "specialist"]
    assert {comparison.names for comparison in report.comparisons} == {("base", "specialist"), ("dictionary", "specialist")}
    assert report.proofs
    assert all(proof.held for proof in report.proofs)
    assert "weights moved" in {proof.name for proof in report.proofs}
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<html" in page
    assert "tiny" in page
    assert json.loads((folder / "metrics.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert len((folder / "train" / "metrics.jsonl").read_text().splitlines()) == 2
    result = read_json(folder / "train" / "result.json")["result"]
    assert (result["ended"], result["steps"], result["best_step"]) == ("finished", 2, 2)
    rows = {split: (folder / "data" / f"{split}.jsonl").read_text(encoding="utf-8").count("\n") for split in SPLITS}
    assert rows == {"train": 14, "valid": 4, "test": 6}
    assert not [path for path in folder.rglob("*") if path.suffix in (".part", ".old", ".bin", ".pt", ".pkl")]
    assert saved_recipe(folder).name == "tiny"
    # Four valid examples and replies of eight tokens teach nothing, and it is said.
    assert report.sure is not None
    assert report.sure.reason
    assert "Nothing is known of the confidences" in page


STEPS = ("train.max_steps=5", "train.validate_every=2", "train.checkpoints.every=1")
TIMED = {"seconds", "seconds_left", "examples_per_s", "tokens_per_s", "learnt_per_s", "peak_memory"}


def outcome(folder: Path) -> Any:
    """What a training leaves, without times."""
    log = [{name: row[name] for name in row.keys() - TIMED} for row in read_jsonl(folder / "train" / "metrics.jsonl")]
    result = read_json(folder / "train" / "result.json")["result"]
    return hash_folder(folder / "train" / "adapter"), {name: result[name] for name in result.keys() - TIMED}, log


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of five steps that nothing stopped."""
    folder = tmp_path_factory.mktemp("trained") / "whole"
    run(recipe(corpus, *STEPS), folder, Log(), "train")
    return folder


class Noisy(Log):
    """A watch that keeps what is said, and sends Ctrl-C after some steps."""

    def __init__(self, *stops: int) -> None:
        super().__init__()
        self.said: list[str] = []
        self.steps: list[int] = []
        self.stops = stops

    def say(self, words: str) -> None:
        self.said.append(words)

    def trained(self, progress: Any) -> None:
        self.steps.append(progress.step)
        if progress.step in self.stops:
            signal.raise_signal(signal.SIGINT)


def test_an_interrupted_training_goes_on_where_it_was(corpus: Path, trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(StoppedError):
        run(recipe(corpus, *STEPS), folder, Noisy(3), "train")
    assert read_json(folder / "train" / "result.json")["result"]["ended"] == "interrupted"
    assert evaluate_folder(folder, Log()).systems[-1].name == "specialist"
    log = Noisy()
    # Who watches, and how often it is saved, is no other training.
    run(recipe(corpus, *STEPS[:2], "train.checkpoints.keep=2"), folder, log, "train")
    assert log.steps == [4, 5]
    assert any(words.startswith("goes on at step 3 of 5") for words in log.said)
    assert outcome(folder) == outcome(trained)
    forget_checkpoints(folder)
    assert not (folder / "train" / "checkpoints").exists()
    log = Noisy()
    run(recipe(corpus, *STEPS), folder, log, "train")  # anew, though it was finished
    assert (log.ran, log.steps) == (["train"], [1, 2, 3, 4, 5])
    assert outcome(folder) == outcome(trained)


def train_apart(corpus: Path, folder: Path) -> subprocess.Popen[str]:
    """A process of its own that trains in a folder whose data are built."""
    if not (folder / "recipe.json").exists():
        run(recipe(corpus, *STEPS), folder, Log(), "data")
    code = (
        "import sys; from pathlib import Path; from whet.pipeline.ask import Silent; "
        "from whet.pipeline.run import run, saved_recipe; folder = Path(sys.argv[1]); "
        "run(saved_recipe(folder), folder, Silent(), 'train')"
    )
    return subprocess.Popen([sys.executable, "-c", code, str(folder)], stderr=subprocess.PIPE, text=True)


def test_a_training_that_is_killed_inside_a_save_ends_the_same(corpus: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = train_apart(corpus, killed)
    while not list(killed.glob("train/checkpoints/.step-[2-5].*.part")):
        assert process.poll() is None, process.communicate()[1]
    process.kill()
    process.communicate()
    assert not (killed / "train" / "result.json").exists()
    kept = {path.parent.name for path in killed.glob("train/checkpoints/step-*/complete.json")}
    assert kept, "a checkpoint before the one that was torn"
    for folder in (killed, whole):
        process = train_apart(corpus, folder)
        said = process.communicate()[1]
        assert process.returncode == 0, said
    assert outcome(killed) == outcome(whole)
    assert not list(killed.glob("train/**/.*.part"))


class Cramped(Noisy):
    """A watch after whose second step no file may grow beyond a size: less than a checkpoint needs."""

    def trained(self, progress: Any) -> None:
        super().trained(progress)
        if progress.step == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def test_a_disk_that_is_full_while_saving(corpus: Path, trained: Path, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(InputError, match=r"can't be written \([^\n]*File too large[^\n]*\)\. Free some space") as caught:
            run(recipe(corpus, *STEPS), tmp_path, Cramped(), "train")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.exit_code == 2
    assert [path.name for path in (tmp_path / "train" / "checkpoints").iterdir()] == ["step-1"]
    log = Noisy()
    run(recipe(corpus, *STEPS), tmp_path, log, "train")
    assert log.steps == [2, 3, 4, 5]
    assert outcome(tmp_path) == outcome(trained)


def test_out_of_memory_says_what_to_change(corpus: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def update(*_: Any) -> None:
        raise InputError("cpu", "out of memory", "Lower something")

    monkeypatch.setattr("whet.backends.on_torch.backend.TorchBackend.update", update)
    with pytest.raises(InputError, match=r"cpu: out of memory\. Set (train|device)\.\w+="):
        run(recipe(corpus, *STEPS), tmp_path, Log(), "train")


def test_a_base_that_takes_all_memory_is_opened_once(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def open_backend(*_: Any) -> None:
        opened.append(1)
        raise InputError("cuda:0", "out of memory", "Take a smaller base")

    monkeypatch.setattr("whet.backends.open.open_backend", open_backend)
    with pytest.raises(InputError, match=r"cuda:0: out of memory\. Take a smaller base"):
        run(recipe(corpus, *STEPS), tmp_path, Log(), "train")
    assert len(opened) == 1


def test_an_adapter_depends_on_the_names_of_mixed_sources_and_on_what_scores_it(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(recipe(corpus), tmp_path, Log(), "data")

    def keys() -> list[str]:
        changes = ((), ("train.mix.epoch_size=14",), ("train.choose_by=score",))
        return [train_key(Bench(recipe(corpus, *change), tmp_path, Log())) for change in changes]

    before = keys()
    path = tmp_path / "data" / "manifest.json"
    manifest = read_json(path)
    manifest["sources"][0]["name"] = "renamed"
    write_json(path, manifest)
    assert [old == new for old, new in zip(before, keys(), strict=True)] == [True, False, True]
    before = keys()
    monkeypatch.setattr(bench, "hash_code", lambda room: "other" if room == "engines" else hash_code(room))
    assert [old == new for old, new in zip(before, keys(), strict=True)] == [True, True, False]


def test_the_best_adapter_can_be_chosen_by_the_score_of_the_task(corpus: Path, tmp_path: Path) -> None:
    run(recipe(corpus, "train.choose_by=score", "train.score_examples=4"), tmp_path, Log(), "train")
    result = read_json(tmp_path / "train" / "result.json")["result"]
    assert len(result["score_curve"]) == len(result["valid_curve"])
    assert result["best_score"] == max(score for _, score in result["score_curve"])


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
