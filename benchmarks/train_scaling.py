"""How the time of whet's training step grows with rows, row length, shared prefix and rank; and how long the first step waits.

Synthetic rows on a random Qwen2 model in fp32: from a common point one size is changed at a time, all sizes of a table are
measured in turn, and medians are taken. An exponent is the least-squares slope of log seconds over log size: 1 is linear.
Start-up is `whet train` in a process of its own on whet's generated annals and embedded base, from its start to the end of
the first optimiser step: once with nothing prepared, once with the data built by the run before.

The last line is a JSON object: exponents by table, startup_s and startup_prepared_s.
"""

import argparse
import json
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from random_models import SHAPES, make_model
from train_speed import num_cores

from whet.train.encode import Row

TABLES: dict[str, tuple[int, ...]] = {
    "rows": (8, 16, 32, 64, 128),
    "length": (16, 32, 64, 128, 256, 512),
    "prefix": (16, 64, 256, 1024),
    "rank": (4, 16, 64, 256),
}
TOLD = {
    "rows": "rows of a step",
    "length": "tokens of a row behind the shared prefix, half of them learnt",
    "prefix": "tokens of the shared prefix",
    "rank": "rank of the adapter",
}
START = "from whet.cli.main import main; main()"
RECIPE = """name: startup
base: embedded
task:
  kind: extraction
  fields: [{name: name}, {name: office, nullable: true}]
data:
  sources:
    - {reader: inline, path: train.txt, split: train, tags: {name: {tag: P}, office: {tag: O}}}
    - {reader: inline, path: valid.txt, split: valid, tags: {name: {tag: P}, office: {tag: O}}}
    - {reader: inline, path: test.txt, split: test, tags: {name: {tag: P}, office: {tag: O}}}
train: {max_steps: 1, examples_per_step: 16}
"""


@dataclass(frozen=True, slots=True)
class Point:
    """The sizes of a step."""

    rows: int = 16
    length: int = 64
    prefix: int = 128
    rank: int = 16

    def make(self, vocabulary: int, seed: int = 0) -> list[Row]:
        """Rows of random ids; half of what stands behind the prefix is learnt."""
        drawn = random.Random(seed)

        def ids(num: int) -> tuple[int, ...]:
            return tuple(drawn.choices(range(5, vocabulary), k=num))

        prefix, half = ids(self.prefix), self.length // 2
        rows = [(prefix + ids(self.length - half), ids(half)) for _ in range(self.rows)]
        return [Row(f"r{number}", "benchmark", prompt, answer, False) for number, (prompt, answer) in enumerate(rows)]


def measure_table(model: str, folder: Path, table: str, repeats: int, budget: int) -> list[dict[str, float]]:
    """Median seconds of a step at each size of a table; runs in a process of its own."""
    from whet.backends.base import DeviceSettings, LoraSettings, OptimizerSettings
    from whet.backends.open import open_backend
    from whet.models.base_model import open_base
    from whet.train.batches import pack_rows

    backend = open_backend(open_base(folder / "model"), OptimizerSettings(), DeviceSettings(kind="cpu", dtype="fp32"))
    seconds: dict[int, list[float]] = {size: [] for size in TABLES[table]}
    computed: dict[int, int] = {}
    # The first time around warms up.
    for time_around in range(repeats + 1):
        for size, took in seconds.items():
            point = replace(Point(), **{table: size})
            backend.attach(LoraSettings(rank=point.rank), 0)
            rows = point.make(SHAPES[model].vocabulary)
            start = time.perf_counter()
            result = backend.update(pack_rows(rows, budget, backend.row_layout), 1e-4)
            if time_around:
                took.append(time.perf_counter() - start)
            computed[size] = result.num_computed
    return [
        {"size": size, "seconds": statistics.median(took), "least": min(took), "most": max(took), "computed": computed[size]}
        for size, took in seconds.items()
    ]


def slope(points: Sequence[dict[str, float]]) -> float:
    """Least-squares slope of log seconds over log size."""
    at = [(math.log(point["size"]), math.log(point["seconds"])) for point in points]
    x_mean, y_mean = (statistics.fmean(column) for column in zip(*at, strict=True))
    return sum((x - x_mean) * (y - y_mean) for x, y in at) / sum((x - x_mean) ** 2 for x, _ in at)


def measure_startup(recipe: Path, out: Path, threads: dict[str, str]) -> tuple[float, float]:
    """Seconds from the start of `whet train` to its built data, and to the end of its first optimiser step."""
    log, built = out / "train/metrics.jsonl", 0.0
    began = time.perf_counter()
    command = [sys.executable, "-c", START, "train", str(recipe), "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ | threads) as process:
        while process.poll() is None and not (log.is_file() and log.stat().st_size):
            if not built and (out / "data/manifest.json").is_file():
                built = time.perf_counter() - began
            time.sleep(0.02)
        took = time.perf_counter() - began
        _, told = process.communicate()
    if process.returncode or not (log.is_file() and log.stat().st_size):
        sys.exit(f"whet train failed:\n{told.decode()[-2000:]}")
    return built, took


def startups(folder: Path, threads: dict[str, str]) -> tuple[float, float]:
    from whet.data.annals.write import write

    write(folder, 200, 20, 20, 0)
    recipe, out = folder / "recipe.yaml", folder / "run"
    recipe.write_text(RECIPE, encoding="utf-8")
    built, cold = measure_startup(recipe, out, threads)
    shutil.rmtree(out / "train")
    _, prepared = measure_startup(recipe, out, threads)
    print(
        f"start-up: first step after {cold:.1f} s (data built after {built:.1f} s); with the data built before, {prepared:.1f} s"
    )
    return cold, prepared


def show(table: str, points: Sequence[dict[str, float]]) -> float:
    """Print a table; gives its exponent."""
    fixed = ", ".join(f"{name} {value}" for name, value in asdict(Point()).items() if name != table)
    print(f"{TOLD[table]} ({fixed})\n{'size':>6} {'seconds':>8} {'spread':>15} {'computed':>9} {'computed/s':>10}")
    for point in points:
        spread = f"{point['least']:.3f}-{point['most']:.3f}"
        rate = point["computed"] / point["seconds"]
        print(f"{point['size']:>6} {point['seconds']:>8.3f} {spread:>15} {point['computed']:>9} {rate:>10.0f}")
    exponent = slope(points)
    print(f"exponent {exponent:.2f}\n", flush=True)
    return exponent


def run_child(given: str) -> None:
    job = json.loads(given)
    import torch

    torch.set_num_threads(job["threads"])
    folder = Path(job["folder"])
    if job["table"] == "make":
        make_model(SHAPES[job["model"]], folder)
        print("\nnull")
    else:
        print("\n" + json.dumps(measure_table(job["model"], folder, job["table"], job["repeats"], job["budget"])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one measurement a point: within 5 minutes on two cores")
    parser.add_argument("--model", default="A", choices=sorted(SHAPES))
    parser.add_argument("--table", default=",".join([*TABLES, "startup"]), help="some of rows,length,prefix,rank,startup")
    parser.add_argument("--repeats", type=int, help="measurements of each point")
    parser.add_argument("--tokens-per-batch", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=num_cores())
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        run_child(args.child)
        return
    repeats = args.repeats or (1 if args.quick else 4)
    threads = {name: str(args.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    said: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as root:
        job = {"model": args.model, "folder": root, "repeats": repeats, "budget": args.tokens_per_batch, "threads": args.threads}

        def child(table: str) -> Any:
            command = [sys.executable, "-W", "ignore", __file__, "--child", json.dumps(job | {"table": table})]
            done = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ | threads)
            if done.returncode:
                sys.exit(f"{table} failed:\n{done.stderr[-4000:]}")
            return json.loads(done.stdout.splitlines()[-1])

        tables = [table for table in args.table.split(",") if table != "startup"]
        if tables:
            child("make")
        print(f"model {args.model}: {SHAPES[args.model]}; {args.threads} threads\n", flush=True)
        said["exponents"] = {table: round(show(table, child(table)), 3) for table in tables}
        if "startup" in args.table.split(","):
            cold, prepared = startups(Path(root) / "corpus", threads)
            said |= {"startup_s": round(cold, 2), "startup_prepared_s": round(prepared, 2)}
    print(json.dumps(said))


if __name__ == "__main__":
    main()
