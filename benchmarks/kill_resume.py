"""Kills trainings with SIGKILL at random moments, also inside a save, takes them up again, and compares what they end with."""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.data.annals.write import write
from whet.storage import hash_folder, read_json, read_jsonl

STEPS = 16
RECIPE = f"""
name: killed
task:
  kind: extraction
  prompt: 取官員。
  fields: [{{name: name}}, {{name: office, nullable: true}}]
data:
  sources:
    - {{reader: inline, path: train.txt, split: train, tags: {{name: {{tag: P}}, office: {{tag: O}}}}}}
    - {{reader: inline, path: valid.txt, split: valid, tags: {{name: {{tag: P}}, office: {{tag: O}}}}}}
    - {{reader: inline, path: test.txt, split: test, tags: {{name: {{tag: P}}, office: {{tag: O}}}}}}
train:
  max_steps: {STEPS}
  epochs: 100
  examples_per_step: 6
  validate_every: 3
  learning_rate: 2.0e-3
  patience: null
  lora: {{rank: 4}}
  checkpoints: {{every: 1}}
"""
TIMED = ("seconds", "seconds_left", "examples_per_s", "tokens_per_s", "learnt_per_s", "peak_memory")


@dataclass(frozen=True)
class Moment:
    """When a training is killed: some time after a step, or as soon as it writes a file or folder after it."""

    step: int
    delay_s: float
    is_in_save: bool

    def __str__(self) -> str:
        return f"{'inside a save' if self.is_in_save else f'{self.delay_s * 1000:.0f} ms'} after step {self.step}"


def start(recipe: Path, folder: Path) -> "subprocess.Popen[bytes]":
    """`whet train` in a process of its own."""
    command = [sys.executable, "-c", "from whet.cli.main import main; main()", "train", str(recipe), "--out", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(recipe: Path, folder: Path) -> None:
    """Train to the end; a training that fails ends the benchmark."""
    process = start(recipe, folder)
    said = process.communicate()[1].decode()
    if process.returncode != 0:
        raise SystemExit(f"whet train failed in {folder}:\n{said}")


def kill(recipe: Path, folder: Path, moment: Moment) -> bool:
    """Train until the moment and kill it then; False if the training was at its end before."""
    process = start(recipe, folder)
    while num_steps(folder) < moment.step and process.poll() is None:
        time.sleep(0.002)
    if moment.is_in_save:
        while not is_saving(folder) and process.poll() is None:
            pass  # a save takes milliseconds
    time.sleep(moment.delay_s)
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def is_saving(folder: Path) -> bool:
    """Whether something half-written lies in the run."""
    try:
        return any(any(folder.glob(pattern)) for pattern in ("train/.*.part", "train/*/.*.part"))
    except FileNotFoundError:
        return True  # a folder was renamed while it was looked through


def num_steps(folder: Path) -> int:
    """Steps that a training has written down."""
    try:
        return (folder / "train" / "metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def outcome(folder: Path) -> dict[str, Any]:
    """What a finished training leaves: the adapter's bytes, its curves, its result, all its steps; without times."""
    log = [
        {key: value for key, value in row.items() if key not in TIMED} for row in read_jsonl(folder / "train" / "metrics.jsonl")
    ]
    result = {key: value for key, value in read_json(folder / "train" / "result.json")["result"].items() if key not in TIMED}
    return {"adapter": hash_folder(folder / "train" / "adapter"), "result": result, "log": log}


def moments(draw: random.Random, num: int, step_s: float) -> Iterator[Moment]:
    """Moments of one run, in the order of their steps; every other one is inside a save."""
    for at, step in enumerate(sorted(draw.sample(range(1, STEPS), num))):
        is_in_save = at % 2 == 1
        yield Moment(step, draw.uniform(0, 0.004 if is_in_save else step_s), is_in_save)


def killed_run(recipe: Path, folder: Path, planned: list[Moment]) -> list[Moment]:
    """A run that is killed at each moment and then finished; gives the moments at which it really was."""
    done = []
    for moment in planned:
        if kill(recipe, folder, moment):
            stage = "with a half-written file" if list(folder.glob("train/**/.*.part")) else "between writes"
            print(f"  killed {moment} ({num_steps(folder)} steps written down, {stage})", flush=True)
            done.append(moment)
    finish(recipe, folder)
    return done


def main() -> None:
    """Print what happens, and as the last line the kills and how many of them left no trace."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="6 kills in 2 runs, within 5 minutes on 2 cores")
    parser.add_argument("--kills", type=int, help="how many kills (20)")
    parser.add_argument("--per-run", type=int, default=4, help="kills of one run")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    args = parser.parse_args()
    wanted = args.kills or (6 if args.quick else 20)
    per_run = min(3 if args.quick else args.per_run, wanted)
    draw = random.Random(args.seed)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    kills = identical = number = 0
    with tempfile.TemporaryDirectory() as place:
        corpus = Path(place) / "corpus"
        write(corpus, 48, 8, 4, 0)
        recipe = corpus / "killed.yaml"
        recipe.write_text(RECIPE, encoding="utf-8")
        began = time.monotonic()
        finish(recipe, Path(place) / "whole")
        whole = outcome(Path(place) / "whole")
        step_s = list(read_jsonl(Path(place) / "whole" / "train" / "metrics.jsonl"))[-1]["seconds"] / STEPS
        print(f"uninterrupted: {time.monotonic() - began:.1f} s, {step_s * 1000:.0f} ms a step", flush=True)
        while kills < wanted:
            number += 1
            folder = Path(place) / f"run-{number}"
            done = killed_run(recipe, folder, list(moments(draw, min(per_run, wanted - kills), step_s)))
            is_same = outcome(folder) == whole
            print(f"run {number}: {len(done)} kills, {'bit-identical' if is_same else 'DIFFERENT'}", flush=True)
            kills += len(done)
            identical += len(done) * is_same
    print(json.dumps({"kills": kills, "identical": identical}))


if __name__ == "__main__":
    main()
