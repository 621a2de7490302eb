"""The whole way on the embedded base: a corpus, a specialist, its evidence; and a training that is broken off."""

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import SPLITS, Log, recipe

from whet.errors import InputError
from whet.evaluate.report import Report
from whet.pipeline import bench
from whet.pipeline.bench import Bench, hash_code
from whet.pipeline.run import evaluate_folder, run, saved_recipe
from whet.pipeline.train_step import StoppedError, forget_checkpoints, train_key
from whet.storage import hash_folder, read_json, read_jsonl, write_json

pytestmark = pytest.mark.end_to_end


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
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    for system in metrics["systems"]:  # an interval on every figure
        assert system["rates"].keys() - {"ungrounded"} <= system["rate_intervals"].keys() <= system["rates"].keys()
        for name, around in system["rate_intervals"].items():
            assert 0 <= around["low"] <= system["rates"][name] <= around["high"] <= 1
        for field in system["fields"].values():
            for figure, interval in (("f1", "interval"), ("precision", "precision_interval"), ("recall", "recall_interval")):
                assert field[interval]["low"] <= field[figure] <= field[interval]["high"]
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
