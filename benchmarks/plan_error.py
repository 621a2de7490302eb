"""How far `whet plan` is from the peak memory and the time of real training steps, over random models and settings.

Every case runs in a process of its own on the CPU: the model is opened, an adapter attached, and two optimiser steps of two
micro-batches are taken. Measured is the highest resident memory of that process (ru_maxrss), libraries and all. It is taken
twice: with the C library's allocator as it comes, which keeps freed blocks of less than 32 MB for later, and with one that
gives every block of 64 KiB or more back at once (MALLOC_MMAP_THRESHOLD_). The error is counted against the first, which is
what a user sees; the second is compared with the plan without the part that it gives to the allocator.

The last line is a JSON object: max_error and mean_error (shares of the measured peak), max_error_exact_allocator,
max_time_error, share_of_matrix_rate (median), num_cases and num_failed. `--quick` stays within 5 minutes on two cores.
"""

import argparse
import json
import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

MIB = 2**20
CHILD_SECONDS = 600


class ChildError(Exception):
    """A case's process failed; its last words."""


@dataclass(frozen=True)
class Case:
    """One model and one way to train it."""

    name: str
    hidden: int = 384
    layers: int = 8
    vocabulary: int = 32_000
    tokens: int = 2048
    prefix: int = 0
    row: int = 128
    """Tokens of a row behind the prefix; a third of them are learnt."""
    adapter: dict[str, Any] | None = None
    """LoRA's settings; None trains all weights."""
    device: dict[str, Any] | None = None
    optimizer: str = "adamw"

    @property
    def config(self) -> dict[str, Any]:
        return {
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.hidden * 11 // 4 // 32 * 32,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.hidden // 64,
            "num_key_value_heads": max(1, self.hidden // 192),
            "max_position_embeddings": 8192,
            "tie_word_embeddings": True,
        }


LORA = Case("LoRA on all layers", adapter={})
QUICK = (
    LORA,
    replace(LORA, name="twice the tokens", tokens=4096),
    replace(LORA, name="prefix of 700", prefix=700),
    replace(LORA, name="hidden 768", hidden=768, tokens=1024),
    replace(LORA, name="vocabulary 152k", vocabulary=152_000),
    replace(LORA, name="last 2 layers", adapter={"last_layers": 2}),
    replace(LORA, name="checkpointed", tokens=4096, device={"checkpoint_activations": True}),
    replace(LORA, name="full", adapter=None),
    replace(LORA, name="hidden 256, vocabulary 8k", hidden=256, vocabulary=8192),
)
MORE = (
    replace(LORA, name="16 layers", layers=16),
    replace(LORA, name="queries and values", adapter={"targets": ["q_proj", "v_proj"]}),
    replace(LORA, name="rank 128", adapter={"rank": 128}),
    replace(LORA, name="logits 512 MiB", vocabulary=152_000, device={"logits_mb": 512}),
    replace(LORA, name="long rows", row=1024),
    replace(LORA, name="prefix of 2000, checkpointed", prefix=2000, tokens=4096, device={"checkpoint_activations": True}),
    replace(LORA, name="full, vocabulary 152k", adapter=None, vocabulary=152_000),
    replace(LORA, name="hidden 768, 16 layers, 4096 tokens", hidden=768, layers=16, tokens=4096),
    replace(LORA, name="nf4", hidden=768, layers=16, device={"quantize": "nf4"}),
    replace(LORA, name="8-bit AdamW", adapter=None, optimizer="adamw_8bit"),
)


def setup_of(case: Case) -> Any:
    from whet.backends.base import DeviceSettings, FullSettings, LoraSettings, OptimizerSettings
    from whet.config import load
    from whet.train.memory import Setup

    device = load(DeviceSettings, {"kind": "cpu", "dtype": "fp32", **(case.device or {})}, {}, case.name)
    adapter = FullSettings() if case.adapter is None else load(LoraSettings, case.adapter, {}, case.name)
    optimizer = load(OptimizerSettings, {"name": case.optimizer}, {}, case.name)
    return Setup(adapter, optimizer, device, case.tokens, 2 * case.tokens // case.row)


def packs_of(case: Case) -> list[Any]:
    """Two micro-batches with random ids, the same prefix before both."""
    import random

    from whet.backends.base import Pack, Segment

    rng = random.Random(0)
    prefix = tuple(rng.randrange(case.vocabulary) for _ in range(case.prefix))
    rows = [
        Segment(tuple(rng.randrange(case.vocabulary) for _ in range(case.row)), case.row // 3)
        for _ in range((case.tokens - case.prefix) // case.row)
    ]
    return [Pack(prefix, tuple(rows))] * 2


def build(case: Case, folder: Path) -> None:
    """A model with random weights, and the embedded base's tokenizer."""
    import torch
    import transformers

    from whet.models.base_model import EMBEDDED_PATH

    torch.manual_seed(0)
    transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**case.config)).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(EMBEDDED_PATH / file, folder / file)


def measure_here(case: Case, folder: Path) -> dict[str, float]:
    """Peak memory in bytes by phase, and the seconds of the second step, in this very process."""
    from whet.backends.open import open_backend
    from whet.models.base_model import open_base

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    import peft
    import torch

    del peft
    torch.ones(64, 64) @ torch.ones(64, 64)
    said: dict[str, float] = {"runtime": peak()}
    setup = setup_of(case)
    backend = open_backend(open_base(folder), setup.optimizer, setup.device)
    said["loaded"] = peak()
    backend.attach(setup.adapter)
    packs = packs_of(case)
    for _ in range(2):
        began = time.perf_counter()
        result = backend.update(packs, 1e-4)
        said["seconds"] = time.perf_counter() - began
    assert result.is_taken
    return said | {"peak": peak()}


def plan_of(case: Case, folder: Path) -> tuple[Any, float]:
    """The planned memory, and the planned operations of a step."""
    from whet.models.architecture import read_sizes
    from whet.train.memory import Batch, memory_of
    from whet.train.plan import Work, arithmetic_of

    sizes = read_sizes(json.loads((folder / "config.json").read_text()))
    setup, packs = setup_of(case), packs_of(case)
    memory = memory_of(sizes, setup, Batch(packs[0].num_tokens, case.prefix, packs[0].num_learnt))
    rows = len(packs) * len(packs[0].segments)
    work = Work(rows, 0, case.prefix + case.row, case.row // 3, case.prefix, case.prefix + case.row)
    # Equal prefixes are computed once a step.
    one_pack = replace(setup, examples_per_step=rows, tokens_per_batch=case.prefix + rows * case.row)
    return memory, arithmetic_of(sizes, one_pack, work).flops


def run_child(case: Case, folder: Path, verb: str, environment: dict[str, str]) -> dict[str, float]:
    command = [sys.executable, "-W", "ignore", __file__, verb, json.dumps(asdict(case)), "--folder", str(folder)]
    made = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=CHILD_SECONDS, env=os.environ | environment
    )
    if made.returncode:
        raise ChildError((made.stderr.strip() or "died").splitlines()[-1])
    found: dict[str, float] = json.loads(made.stdout.splitlines()[-1])
    return found


def compare(case: Case, rate: float, *, is_quick: bool) -> dict[str, Any]:
    """Planned and measured figures of one case; the exact allocator is left out where it must be quick."""
    from whet.train.plan import EFFICIENCY

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_child(case, folder, "--build", {})
        plain = run_child(case, folder, "--measure", {})
        returning = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        exact = None if is_quick else run_child(case, folder, "--measure", returning)
        memory, flops = plan_of(case, folder)
    seconds = flops / (rate * EFFICIENCY["cpu"])
    return {
        "case": case.name,
        "planned": memory.peak,
        "measured": plain["peak"],
        "measured_exact_allocator": exact["peak"] if exact else math.nan,
        "runtime": plain["runtime"],
        "loaded": plain["loaded"],
        "error": memory.peak / plain["peak"] - 1,
        "error_exact_allocator": (memory.peak - memory.fragments) / exact["peak"] - 1 if exact else math.nan,
        "time_error": seconds / plain["seconds"] - 1,
        "share_of_rate": flops / plain["seconds"] / rate,
        "parts": asdict(memory),
    }


HEADER = f"{'case':36} {'planned':>9} {'measured':>9} {'error':>8} {'exact':>9} {'error':>8} {'of rate':>8}   (MiB)"


def line_of(row: dict[str, Any]) -> str:
    return (
        f"{row['case']:36} {row['planned'] / MIB:9.0f} {row['measured'] / MIB:9.0f} {row['error']:+8.1%} "
        f"{row['measured_exact_allocator'] / MIB:9.0f} {row['error_exact_allocator']:+8.1%} {row['share_of_rate']:8.2f}"
        f"   runtime {row['runtime'] / MIB:.0f}, loaded {row['loaded'] / MIB:.0f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer cases, one allocator, within 5 minutes on 2 cores")
    parser.add_argument("--build", help=argparse.SUPPRESS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.build:
        build(Case(**json.loads(args.build)), args.folder)
        print("{}")
        return
    if args.measure:
        print(json.dumps(measure_here(Case(**json.loads(args.measure)), args.folder)))
        return
    from whet.backends.on_torch.calibrate import calibrate

    rate = calibrate("fp32", 1024, 1024, 1024, "cpu").rate
    found, failed = [], []
    print(HEADER)
    for case in QUICK if args.quick else (*QUICK, *MORE):
        try:
            found.append(compare(case, rate, is_quick=args.quick))
            print(line_of(found[-1]), flush=True)
        except ChildError as error:
            failed.append(case.name)
            print(f"{case.name:36} FAILED: {error}", flush=True)
    result = {
        "max_error": max(abs(row["error"]) for row in found),
        "mean_error": statistics.fmean(abs(row["error"]) for row in found),
        "max_error_exact_allocator": None if args.quick else max(abs(row["error_exact_allocator"]) for row in found),
        "max_time_error": max(abs(row["time_error"]) for row in found),
        "share_of_matrix_rate": statistics.median(row["share_of_rate"] for row in found),
        "num_cases": len(found),
        "num_failed": len(failed),
    }
    print(json.dumps(result))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
