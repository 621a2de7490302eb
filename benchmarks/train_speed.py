"""Speed, memory and arithmetic of LoRA training on a CPU: whet beside TRL's SFTTrainer and transformers' Trainer, with PEFT.

Same random Qwen2 models in fp32, same rows, same learnt tokens, same LoRA (rank 16, all linear layers, no dropout, equal
first weights), AdamW, constant learning rate, 64 rows a step. Each measurement is a process of its own; whet is measured
before every peer in turn, and medians are compared. The first step of each is left out of the times. `trl default` is TRL as
it comes, but for bf16 and its length limit. The peers run with rows sorted by length, 4 rows a batch, without activation
checkpointing and logging; `--search` tries batch sizes 1 to 8 on transformers' Trainer, padded or without padding, and takes
the best for both. torch.compile was not tried: lengths differ from batch to batch.

Chinese rows are tokenised by the embedded base (8,192 ids, about one a character), GSM8K by a byte-level BPE of 8,192 trained
on its own text; the models' vocabularies are larger, as real ones are, and their upper ids do not occur.

With `--threads 1` the ratio by the processor's time is printed too, which tells little of what else runs on the machine.

`--quick`: model A, each system once; steps are smaller where sharing a prefix hardly matters, and the peers take every nth of
whet's rows by length, since a peer's time a row does not depend on the number of rows. Losses are compared on the peer's rows.

The last line is a JSON object, by workload: ratio_vs_best_peer, whet's examples a second over those of the fastest peer;
memory_vs_peer, whet's peak memory over that peer's, both without what the process held after importing its libraries;
share_of_matrix_rate, whet's FLOP/s over this machine's best rate of the products that the model uses, measured in turn
(with --quick once, before all else).
With two models the worse figure is given, and each apart under `models`.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from peers import TRL_DEFAULT, PeerSettings
from random_models import CARD_SHAPES, SHAPES
from systems import Job, start, write_rows
from workloads import DATA, WORKLOADS, Workload, make_workload

from whet.backends.base import DeviceSettings
from whet.train.encode import Row

ALL_SHAPES = SHAPES | CARD_SHAPES
# Relative difference of two systems' mean loss on the same rows with the same weights; on a card they compute in bf16.
SAME_LOSS = {"cpu": 1e-4, "cuda": 1e-2}
QUICK_ROWS = {"a": (64, 4), "b": (64, 16), "c": (32, 8), "d": (4, 2)}  # of whet's step and of a peer's
BATCHES = (1, 2, 4, 8)
# What --search found to be the fastest: model and workload to the peers' style and batch. Other models take A's, cards' 4 rows.
BEST: dict[tuple[str, str], tuple[PeerSettings, ...]] = {
    ("A", "a"): (PeerSettings("trl", 1), PeerSettings("plain", 1)),
    ("A", "b"): (PeerSettings("trl", 4, "flat"), PeerSettings("plain", 4, "flat")),
    ("A", "c"): (PeerSettings("trl", 1, "flat"), PeerSettings("plain", 1, "flat")),
    ("A", "d"): (PeerSettings("trl", 1, "flat"), PeerSettings("plain", 1, "flat")),
}
# Tokens of whet's micro-batches. (c) gives a tenth of its speed for a third of its memory.
BUDGET = {"a": 1280, "b": 704, "c": 384, "d": 2048}
LOGITS_MB = {("A", "c"): 16}  # as it comes elsewhere


@dataclass
class Measured:
    """All that was measured of one system on one workload."""

    name: str
    said: list[dict[str, Any]] = field(default_factory=list)
    rows_per_step: int = 0

    def rates(self, per: str = "rows") -> list[float]:
        """Rows, learnt tokens or operations a second of each process, its first step left out."""
        return [self._count(said, per) / sum(said["seconds"][1:]) for said in self.said]

    def _count(self, said: dict[str, Any], per: str) -> float:
        return (len(said["seconds"]) - 1) * self.rows_per_step if per == "rows" else float(sum(said[per][1:]))

    def median(self, per: str = "rows") -> float:
        return statistics.median(self.rates(per))

    def rate_by_processor(self) -> float:
        """Rows a second of the processor; the median of the processes."""
        return statistics.median(self._count(said, "rows") / sum(said["cpu"][1:]) for said in self.said)

    def memory(self, name: str = "above_libraries_mib") -> float:
        return statistics.median(said[name] for said in self.said)


@dataclass(frozen=True, slots=True)
class Bench:
    """One model and one workload on disk."""

    args: argparse.Namespace
    model: str
    workload: Workload
    folder: Path

    @property
    def num_rows(self) -> int:
        """Rows of whet's step."""
        return num_rows(self.args, self.workload.name)[0]

    def job(self, what: str, **more: Any) -> dict[str, Any]:
        args = self.args
        job = Job(what, str(self.folder), asdict(ALL_SHAPES[self.model]), threads=args.threads, count=args.count)
        return start(replace(job, device=args.device, **more))

    def steps(self, rows_per_step: int) -> list[list[Row]]:
        """The rows of each step; with fewer rows than whet's, every nth of them by length."""
        size = self.num_rows
        whole = [self.workload.train[at * size : (at + 1) * size] for at in range(self.args.steps)]
        return [thinned(step, rows_per_step) for step in whole]


def num_rows(args: argparse.Namespace, workload: str) -> tuple[int, int]:
    """Rows of whet's step and of a peer's."""
    ours, theirs = QUICK_ROWS[workload] if args.quick else (64, 64)
    ours = args.rows or ours
    return ours, args.peer_rows or min(ours, theirs)


def thinned(rows: Sequence[Row], num: int) -> list[Row]:
    """`num` of the rows, spread evenly over their lengths."""
    if num >= len(rows):
        return list(rows)
    by_length = sorted(rows, key=lambda row: row.num_tokens)
    return [by_length[int((at + 0.5) * len(rows) / num)] for at in range(num)]


def best_peers(bench: Bench) -> tuple[PeerSettings, ...]:
    """Each peer at its best, from a search or from what a search found before."""
    if not bench.args.search:
        usual = (PeerSettings("trl", 4), PeerSettings("plain", 4))
        of_a = usual if bench.model in CARD_SHAPES else BEST["A", bench.workload.name]
        return BEST.get((bench.model, bench.workload.name), of_a)
    path = bench.folder / "search.json"
    size = QUICK_ROWS[bench.workload.name][1]
    write_rows(path, bench.steps(size)[:2], [], [])
    tried = [PeerSettings("plain", batch, style) for style in ("padded", "flat") for batch in BATCHES if batch <= size]
    rates = bench.job("search", rows=str(path), peers=tuple(map(asdict, tried)))["rates"]
    for settings in tried:
        print(f"    {settings.name():<28} {rates[settings.name()]:>8.2f} examples/s", flush=True)
    best = max(tried, key=lambda one: rates[one.name()])
    return replace(best, system="trl"), best


def measure(bench: Bench, matrix: list[float]) -> tuple[Measured, list[Measured]]:
    """whet and the peers. The matrix rates that are measured in turn with them go into `matrix`, with --quick one alone."""
    args = bench.args
    chosen = best_peers(bench)
    peers = [*chosen, *([TRL_DEFAULT] if args.defaults or not args.quick else [])]
    peer_rows = num_rows(args, bench.workload.name)[1]
    peer_steps = bench.steps(peer_rows)
    ours_path, peer_path = bench.folder / "ours.json", bench.folder / "peer.json"
    write_rows(ours_path, bench.steps(bench.num_rows), peer_steps[0], bench.workload.held_out)
    write_rows(peer_path, peer_steps, [], bench.workload.held_out)
    peers = [replace(one, batch=min(one.batch, peer_rows)) for one in peers]
    ours = Measured("whet", rows_per_step=bench.num_rows)
    names = ["trl default" if one.is_checkpointed else one.name() for one in peers]
    theirs = [Measured(name, rows_per_step=peer_rows) for name in names]
    budget = args.tokens_per_batch or BUDGET[bench.workload.name]
    logits_mb = LOGITS_MB.get((bench.model, bench.workload.name), DeviceSettings().logits_mb)
    for _ in range(args.rounds):
        if not (args.quick and matrix):
            matrix.append(bench.job("rate")["best"])
        for number, settings in enumerate(peers):
            if number == 0 or not args.quick:
                ours.said.append(bench.job("whet", rows=str(ours_path), tokens_per_batch=budget, logits_mb=logits_mb))
            theirs[number].said.append(bench.job("peer", rows=str(peer_path), peers=(asdict(settings),)))
    return ours, theirs


def check(ours: Measured, theirs: Sequence[Measured], same: float) -> list[str]:
    """What does not agree between the systems: losses (relative difference over `same`), learnt tokens, counted operations."""
    faults = []
    first = ours.said[0]
    for said in ours.said:
        if not said["layout"].startswith("rows are packed"):
            faults.append(f"whet did not pack: {said['layout']}")
    for peer in theirs:
        for said in peer.said:
            pairs = [("loss of the first step", said["losses"][0], first["probe_loss"])]
            if peer.rows_per_step == ours.rows_per_step:
                pairs.append(("held-out loss after the steps", said["held_out"], first["held_out"]))
            faults += [f"{peer.name}: {what} {theirs_:.6f}, whet's {ours_:.6f} on the same rows" for what, theirs_, ours_ in pairs
                       if not abs(theirs_ / ours_ - 1) < same]  # fmt: skip
            if said["learnt"][0] != first["probe_learnt"]:
                faults.append(f"{peer.name}: learns {said['learnt'][0]} tokens in the first step, whet {first['probe_learnt']}")
    for each in (ours, *theirs):
        faults += [f"{each.name}: operations counted wrong by {said['flops_off']:+.1%}" for said in each.said
                   if abs(said.get("flops_off", 0)) > 0.02]  # fmt: skip
    return faults


def show(bench: Bench, ours: Measured, theirs: Sequence[Measured], matrix: Sequence[float]) -> dict[str, float]:
    """Print a workload's table and its ratios; gives the three figures of the last line."""
    rate = statistics.median(matrix)
    head = f"{'system':<38} {'examples/s':>10} {'spread':>13} {'learnt/s':>8} {'peak MiB':>9} {'-libraries':>10} {'-model':>7}"
    print(f"{head} {'GFLOP/s':>8} {'share':>6} {'held out':>9} {'to 1st step':>11}")
    for each in (ours, *theirs):
        rates = each.rates()
        flops = each.median("flops")
        cells = f"{each.median():>10.2f} {min(rates):>6.2f}-{max(rates):<6.2f} {each.median('learnt'):>8.0f} "
        cells += f"{each.memory('peak_mib'):>9.0f} "
        cells += f"{each.memory():>10.0f} {each.memory('above_model_mib'):>7.0f} {flops / 1e9:>8.1f} {flops / rate:>6.0%} "
        waited = statistics.median(said["first_step_s"] for said in each.said)
        print(f"{each.name:<38} {cells}{each.said[0]['held_out']:>9.5f} {waited:>10.1f}s")
    best = max(theirs, key=lambda peer: peer.median())
    # whet was measured before every peer, or once a round; each run of the best peer is set beside whet's just before it.
    stride = len(ours.said) // len(best.said)
    before = ours.rates()[theirs.index(best) if stride > 1 else 0 :: stride]
    pairs = [one / other for one, other in zip(before, best.rates(), strict=True)]
    figures = {
        "ratio": ours.median() / best.median(),
        "memory": ours.memory() / best.memory(),
        "share": ours.median("flops") / rate,
    }
    ratio = f"{figures['ratio']:.2f} (of single runs {min(pairs):.2f} to {max(pairs):.2f})"
    rates = f"{rate / 1e9:.0f} GFLOP/s ({min(matrix) / 1e9:.0f} to {max(matrix) / 1e9:.0f})"
    if bench.args.threads == 1:
        by_processor = ours.rate_by_processor() / max(peer.rate_by_processor() for peer in theirs)
        print(f"ratio by the processor's time: {by_processor:.2f}")
    print(f"ratio to the best peer ({best.name}): {ratio}; memory {figures['memory']:.2f}; matrix rate {rates}\n", flush=True)
    return figures


def last_line(figures: dict[str, dict[str, dict[str, float]]]) -> dict[str, Any]:
    """The worse figure of the models for each workload, and each model's own."""
    names = {"ratio_vs_best_peer": ("ratio", min), "memory_vs_peer": ("memory", max), "share_of_matrix_rate": ("share", min)}

    def lines(of: Sequence[dict[str, dict[str, float]]]) -> dict[str, Any]:
        return {
            name: {workload: round(worse(each[workload][key] for each in of), 3) for workload in of[0]}
            for name, (key, worse) in names.items()
        }

    found = lines(list(figures.values()))
    return found | ({"models": {model: lines([each]) for model, each in figures.items()}} if len(figures) > 1 else {})


def num_cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def parse(words: str | None, usual_models: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=words, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="within 5 minutes on two cores")
    parser.add_argument("--workload", default="a,b,c,d", help="some of a,b,c,d")
    parser.add_argument("--model", default="", help=f"of {usual_models}; --quick takes the first")
    parser.add_argument("--rows", type=int, help="rows of a step; 64")
    parser.add_argument("--peer-rows", type=int, help="rows of a peer's step, where fewer than whet's will do")
    parser.add_argument("--steps", type=int, help="steps of a process, the first of which is not timed")
    parser.add_argument("--rounds", type=int, help="times that all systems are measured in turn")
    parser.add_argument("--tokens-per-batch", type=int, help="tokens of whet's micro-batches")
    parser.add_argument("--threads", type=int, default=num_cores())
    parser.add_argument("--search", action="store_true", help="find each peer's best settings first, and measure with them")
    parser.add_argument("--count", action="store_true", help="check the counted operations against torch's own count")
    parser.add_argument("--defaults", action="store_true", help="with --quick too: TRL as it comes")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the corpora")
    args = parser.parse_args()
    args.steps = args.steps or (2 if args.quick else 3)
    args.rounds = args.rounds or (1 if args.quick else 3)
    args.model = args.model or (usual_models.partition(",")[0] if args.quick else usual_models)
    args.device = "cpu"
    return args


def measure_all(args: argparse.Namespace) -> None:
    """Every model and workload in turn; ends the process, with 1 where systems disagree."""
    figures: dict[str, dict[str, dict[str, float]]] = {}
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as root:
        for model in args.model.split(","):
            shape = ALL_SHAPES[model]
            folder = Path(root) / model
            folder.mkdir()
            start(Job("make", str(folder), asdict(shape), device=args.device))
            print(f"model {model}: {shape.num_parameters / 1e6:.0f} M parameters, {shape}; {args.threads} threads")
            matrix: list[float] = []
            for name in args.workload.split(","):
                if not args.quick:
                    matrix = []
                num_train = num_rows(args, name)[0] * args.steps
                workload = make_workload(name, num_train, 4 if args.quick else 16, args.data, Path(root) / "tokenizer")
                bench = Bench(args, model, workload, folder)
                print(workload.describe(), flush=True)
                ours, theirs = measure(bench, matrix)
                figures.setdefault(model, {})[name] = show(bench, ours, theirs, matrix)
                for fault in check(ours, theirs, SAME_LOSS[args.device]):
                    print(f"DISAGREES: {model}, {name}: {fault}", flush=True)
                    faults.append(fault)
    print(json.dumps(last_line(figures)))
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    assert set(BUDGET) == set(WORKLOADS)
    measure_all(parse(__doc__, "A,B"))
