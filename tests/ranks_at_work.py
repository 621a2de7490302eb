"""One of the processes that tests/backends/test_ranks.py starts: trains as it is told, beside others or alone."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from whet.backends.base import Ask, DeviceSettings, LoraSettings, OptimizerSettings, Pack, Segment
from whet.backends.on_torch.backend import TorchBackend
from whet.backends.on_torch.ranks import Ranks
from whet.errors import WhetError
from whet.models.base_model import open_base

STEPS, HALF, FAILS_WITH = 4, 2, 5
# Rows alike and unlike, behind one prefix, two, and none; in the third step there is one row alone.
MIXED = LoraSettings(rank=4, rank_pattern={"q_proj": 2})


def packs_of(step: int) -> list[Pack]:
    generator = torch.Generator().manual_seed(step)

    def ids(num: int) -> tuple[int, ...]:
        return tuple(torch.randint(5, 8000, (num,), generator=generator).tolist())

    shared, other = ids(12), ids(7)
    tree = (Segment(ids(9), 4), Segment(ids(5), 0), Segment(ids(6), 2, 1), Segment(ids(4), 1, 1), Segment(ids(13), 6))
    large, small = Pack(shared, tree), Pack(shared, (Segment(ids(19), 4), Segment(ids(3), 2)))
    lone = Pack((), (Segment(ids(7), 3),))
    return [[large, small, lone], [large, Pack(other, tree[:1])], [lone], [small, lone, lone]][step]


def open_at(base: Path, **settings: Any) -> TorchBackend:
    backend = TorchBackend(open_base(base), OptimizerSettings(weight_decay=0.1), DeviceSettings(kind="cpu", **settings))
    backend.attach(MIXED, seed=3)
    return backend


def train(backend: TorchBackend, steps: range, half: Path | None = None) -> list[tuple[float, ...]]:
    """Updates with what each gives back; the state at HALF goes into a folder."""
    told = []
    for step in steps:
        if half is not None and step == HALF:
            backend.save_state(half)
        result = backend.update(packs_of(step), 1e-2)
        told.append((result.loss_sum, result.num_learnt, result.gradient_norm))
    return [*told, backend.loss(packs_of(0) + packs_of(2))]


def weights_of(backend: TorchBackend) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in backend.model.named_parameters() if p.requires_grad}


def answers(backend: TorchBackend) -> list[list[int]]:
    found = dict(backend.generate([Ask((5, 6, 7), 4), Ask((9, 10), 4)], [2]))
    return [list(found[number].ids) for number in range(2)]


def work(base: Path, written_alone: Path, out: Path) -> None:
    """Every way to train on several ranks, whole and taken up; then rank 1 fails while rank 0 waits for it."""
    ways: dict[str, dict[str, Any]] = {"plain": {}, "shard": {"shard": True}}
    ways["recomputed"] = {"shard": True, "checkpoint_activations": True}
    rank = int(os.environ["RANK"])
    found: dict[str, Any] = {}
    for way, settings in ways.items():
        backend = open_at(base, **settings)
        found[f"{way}-layout"] = backend.check_layout(packs_of(0))
        half = out / f"{way}-half"
        if rank == 0:
            half.mkdir()
        found[way] = train(backend, range(STEPS), half)
        found[f"{way}-held"] = _held(backend)
        found[f"{way}-answers"] = answers(backend)
        _write(backend, out / f"{way}.safetensors")
        if rank == 0:
            (out / f"{way}-adapter").mkdir()
            backend.save_adapter(out / f"{way}-adapter")
        backend.attach(MIXED, seed=4)
        backend.load_state(written_alone)
        found[f"{way}-taken-up"] = train(backend, range(HALF, STEPS))
        _write(backend, out / f"{way}-taken-up.safetensors")
    found["exchange"] = exchange(backend.ranks)
    (out / f"rank-{rank}.json").write_text(json.dumps(found))
    if rank == 1:
        print("no more of this", file=sys.stderr, flush=True)
        os._exit(FAILS_WITH)  # as the launcher's processes end: no library may abort on the way out
    backend.ranks.wait()


def exchange(ranks: Ranks) -> dict[str, Any]:
    """What two ranks tell each other where they have unlike things to say."""
    weights = [torch.nn.Parameter(torch.zeros(2, 3)) for _ in range(4)]
    weights[0].grad = torch.full((3, 2), 1.0 + ranks.rank).T  # not contiguous
    if ranks.rank == 1:
        weights[2].grad = torch.ones(2, 3)
    ranks.sum_gradients(weights)
    try:
        ranks.check_same("the rank", ranks.rank)
        disagreement = ""
    except WhetError as error:
        disagreement = error.what
    return {
        "gradients": [None if weight.grad is None else weight.grad.flatten().tolist() for weight in weights],
        "any": [ranks.any_of(ranks.rank == 1), ranks.any_of(False)],
        "sums": ranks.sum_numbers(0.1, ranks.rank),
        "first": ranks.first_of([0.1 + ranks.rank, -float(ranks.rank)]),
        "disagreement": disagreement,
    }


def _write(backend: TorchBackend, path: Path) -> None:
    if backend.rank == 0:
        save_file({name: weight.contiguous() for name, weight in weights_of(backend).items()}, path)


def _held(backend: TorchBackend) -> list[int]:
    """Numbers of the frozen layers that this process holds, and that they have."""
    layers = [p for name, p in backend.model.named_parameters() if ".layers." in name and not p.requires_grad]
    held = sum((p.to_local() if hasattr(p, "to_local") else p).numel() for p in layers)
    return [held, sum(p.numel() for p in layers)]


if __name__ == "__main__":
    from whet.backends.processes import LostRankError

    torch.set_num_threads(1)
    try:
        work(*map(Path, sys.argv[1:4]))
    except LostRankError as error:
        sys.exit(error.exit_code)
