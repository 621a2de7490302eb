"""A corpus that is read on Ray gives what it gives without: the same records, also where an actor is killed on the way."""

import importlib.util
import os
import signal
from pathlib import Path

import pytest
from ray_at_work import actors

from whet.data.annals.write import write
from whet.errors import InputError
from whet.extract.targets import Targets
from whet.models.adapter import open_adapter
from whet.models.base_model import open_base
from whet.pipeline.bench import Bench, Silent
from whet.pipeline.extract_step import Order, extract
from whet.pipeline.on_ray import RaySettings, RunEngine
from whet.pipeline.run import run as run_steps
from whet.pipeline.run import saved_recipe
from whet.recipe import recipe_from
from whet.storage import read_jsonl

pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'whet[ray]'"),
    *[pytest.mark.filterwarnings(f"ignore::{kind}:ray") for kind in ("DeprecationWarning", "UserWarning")],
]
CHUNKS = ("extract.max_failed=1.0", "extract.chunks.size=90", "extract.chunks.overlap=30")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose adapter knows a few texts by heart, and these texts to be read beside it."""
    folder = tmp_path_factory.mktemp("ray")
    write(folder, 24, 4, 6, 0)
    tags = {"name": {"tag": "P"}, "office": {"tag": "O"}}
    splits = ("train", "valid", "test")
    raw = {
        "name": "annals",
        "task": {"kind": "extraction", "fields": [{"name": "name"}, {"name": "office", "nullable": True}]},
        "data": {"sources": [{"reader": "inline", "path": f"{split}.txt", "split": split, "tags": tags} for split in splits]},
        "train": {"max_steps": 30, "examples_per_step": 8, "validate_every": 15, "learning_rate": 5e-3, "lora": {"rank": 8}},
    }
    run_steps(recipe_from(raw, [], "test", folder), folder / "run", Silent(), "train")
    texts = [row["text"] for row in read_jsonl(folder / "run" / "data" / "train.jsonl")]
    for number in range(2):
        (folder / f"{number}.txt").write_text("\n".join(texts[number::2] * 2), encoding="utf-8")
    return folder / "run"


def order(run: Path, out: Path, ray: RaySettings | None = None, **more: object) -> Order:
    inputs = tuple(str(run.parent / f"{number}.txt") for number in range(2))
    return Order(inputs, run, Targets(out), CHUNKS, ray=ray, **more)


def take_confidences(rows: list[dict]) -> list[float]:
    """Takes the confidences out of rows."""
    holders = [held for row in rows for held in (row, *row["values"].values()) if held]
    return [held.pop("confidence") for held in holders]


def test_the_records_are_the_same_and_an_actor_s_death_changes_nothing(run: Path, tmp_path: Path) -> None:
    local = extract(order(run, tmp_path / "local.jsonl")).figures
    killed: list[int] = []

    def kill_one(tally: object) -> None:
        if tally.counts["chunks"] and not killed:
            killed.append(actors()[0])
            os.kill(killed[0], signal.SIGKILL)

    found = extract(order(run, tmp_path / "ray.jsonl", RaySettings(batch=3)), kill_one).figures
    assert killed
    for name in ("chunks", "records", "tokens", "adapter"):
        assert found[name] == local[name]
    rows, wanted = (list(read_jsonl(tmp_path / name)) for name in ("ray.jsonl", "local.jsonl"))
    # Which chunks are computed together decides the last digits of a probability.
    assert take_confidences(rows) == pytest.approx(take_confidences(wanted), abs=1e-4)
    assert rows == wanted
    names = {row["values"]["name"]["text"] for row in rows}
    assert len(names) > 5  # nothing was compared with nothing


def test_what_was_begun_here_is_done_for_ray_too(run: Path, tmp_path: Path) -> None:
    extract(order(run, tmp_path / "out.jsonl"))
    assert extract(order(run, tmp_path / "out.jsonl", RaySettings())).figures["chunks"]["asked"] == 0


def test_another_adapter_than_the_one_that_was_meant_is_refused(run: Path) -> None:
    bench = Bench(saved_recipe(run), run, Silent())
    adapter = open_adapter(bench.folder.adapter, open_base("embedded")).fingerprint
    assert RunEngine.of(bench, adapter).open().name == "specialist"
    assert RunEngine.of(bench, None).open().name == "base"
    with pytest.raises(InputError, match=rf"holds the adapter {adapter} on this machine, not 0123"):
        RunEngine.of(bench, "0123").open()


def test_a_server_is_not_spread(run: Path, tmp_path: Path) -> None:
    engine = ("engine.kind=http", "engine.url=http://127.0.0.1:9/v1", "engine.model=m")
    with pytest.raises(InputError, match="a server answers here, there is nothing to spread"):
        extract(Order((str(run.parent / "0.txt"),), run, Targets(tmp_path / "out.jsonl"), engine, ray=RaySettings()))
