"""Trains the same rows with one system in a process of its own, and says what it took; run by the training benchmarks."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from arithmetic import Work, count_flops, measure_matrix_rate, packed_work, padded_work, peer_work
from peers import PeerSettings, Run, batches_of, load_peer, peer_loss, train_peer
from random_models import Shape, adapt_model, make_model

from whet.train.encode import Row

RANK = 16
MIB = 2**20
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True, slots=True)
class Job:
    """What a child process does. `folder` holds model and adapter, `rows` is a file of steps, probe and held-out rows."""

    what: str
    """whet, peer, search, rate, make (a random model and its adapter) or adapt (an adapter for the model that is there)."""
    folder: str
    shape: dict[str, int]
    rows: str = ""
    peers: tuple[dict[str, Any], ...] = ()
    learning_rate: float = 1e-3
    tokens_per_batch: int = 2048
    logits_mb: int = 64
    threads: int = 1
    device: str = "cpu"
    """cpu, in fp32, or cuda, in bf16."""
    every: int = 0
    """Steps between measurements of the held-out loss; 0 measures it at the end only."""
    started: float = 0.0
    """time.time() when the process was started."""
    count: bool = False
    """Let torch count the products of one more step: what the counting function is checked by (attention apart, whose
    operations torch does not count on a CPU)."""


def start(job: Job) -> dict[str, Any]:
    """Run a job in a fresh process with a set number of threads; gives what it says. Its own messages go to stderr."""
    threads = {name: str(job.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")}
    command = [sys.executable, "-W", "ignore", __file__, json.dumps(asdict(replace(job, started=time.time())))]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ | ENVIRONMENT | threads)
    if done.returncode:
        sys.exit(f"{job.what} failed:\n{done.stderr[-4000:]}")
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def write_rows(path: Path, steps: Sequence[Sequence[Row]], probe: Sequence[Row], held_out: Sequence[Row]) -> None:
    """The rows of a job."""
    groups = {"steps": steps, "probe": [probe], "held_out": [held_out]}
    path.write_text(json.dumps({name: [[asdict(row) for row in rows] for rows in group] for name, group in groups.items()}))


def read_rows(path: Path) -> dict[str, list[list[Row]]]:
    def row(raw: dict[str, Any]) -> Row:
        return Row(**raw | {"prompt_ids": tuple(raw["prompt_ids"]), "answer_ids": tuple(raw["answer_ids"])})

    return {name: [[row(raw) for raw in rows] for rows in group] for name, group in json.loads(path.read_text()).items()}


def peak_bytes(device: str = "cpu") -> int:
    """Most memory that this process held, or its tensors on a card. ru_maxrss would begin at what the parent held, where the
    process was started by fork.
    """
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.is_file():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def held_bytes(device: str = "cpu") -> int:
    """Memory that this process holds now, or its tensors on a card; the peak so far where the system does not say."""
    if device == "cuda":
        import torch

        return torch.cuda.memory_allocated()
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * resource.getpagesize() if statm.is_file() else peak_bytes()


def run_whet(job: Job, shape: Shape) -> dict[str, Any]:
    """Steps as whet's loop takes them: rows to packs, packs to an update."""
    import peft  # noqa: F401
    import torch
    import transformers.models.qwen2.modeling_qwen2  # noqa: F401

    from whet.backends.base import DeviceSettings, OptimizerSettings
    from whet.backends.open import open_backend
    from whet.models.base_model import open_base
    from whet.train.batches import pack_rows

    rows = read_rows(Path(job.rows))
    libraries = held_bytes(job.device)
    dtype = "bf16" if job.device == "cuda" else "fp32"
    device = DeviceSettings(kind="cuda" if job.device == "cuda" else "cpu", dtype=dtype, logits_mb=job.logits_mb)
    backend = open_backend(open_base(Path(job.folder) / "model"), OptimizerSettings(), device)
    loaded = held_bytes(job.device)
    backend.attach(Path(job.folder) / "adapter")
    layout = backend.check_layout(pack_rows(rows["steps"][0][:32], job.tokens_per_batch))
    probe_sum, probe_learnt = backend.loss(pack_rows(rows["probe"][0], job.tokens_per_batch, backend.row_layout))

    def held_out() -> float:
        total, count = backend.loss(pack_rows(rows["held_out"][0], job.tokens_per_batch, backend.row_layout))
        return total / count

    def step(picked: list[Row]) -> Any:
        return backend.update(pack_rows(picked, job.tokens_per_batch, backend.row_layout), job.learning_rate)

    run, computed, start_s = Run([], []), 0, 0.0
    works, learnt = [], []
    curve = [(0, held_out())] if job.every else []
    for picked in rows["steps"]:
        packs = pack_rows(picked, job.tokens_per_batch, backend.row_layout)
        works.append(packed_work(packs) if backend.row_layout == "packed" else padded_work(packs))
        before, cpu_before = time.perf_counter(), time.process_time()
        result = step(picked)
        run.seconds.append(time.perf_counter() - before)
        run.cpu.append(time.process_time() - cpu_before)
        start_s = start_s or time.time() - job.started
        run.losses.append(result.loss_sum / result.num_learnt)
        learnt.append(result.num_learnt)
        computed += result.num_computed
        if job.every and len(learnt) % job.every == 0:
            curve.append((len(learnt), held_out()))
    said = _said(run, learnt, [count_flops(shape, RANK, work) for work in works], libraries, loaded, start_s, job.device)
    said |= {"layout": layout, "computed": computed}
    said |= {"held_out": held_out(), "curve": curve, "probe_loss": probe_sum / max(1, probe_learnt), "probe_learnt": probe_learnt}
    if job.count:
        said["flops_off"] = _counted(lambda: step(rows["steps"][-1])) / _products(shape, works[-1]) - 1
    return said | {"threads": torch.get_num_threads()}


def run_peer(job: Job, shape: Shape) -> dict[str, Any]:
    """Steps as a peer takes them."""
    import datasets  # noqa: F401
    import peft  # noqa: F401
    import transformers.models.qwen2.modeling_qwen2

    settings = PeerSettings(**job.peers[0])
    if settings.system == "trl":
        from trl import SFTConfig, SFTTrainer  # noqa: F401
    assert transformers.Trainer
    rows = read_rows(Path(job.rows))
    libraries = held_bytes(job.device)
    model = load_peer(Path(job.folder), job.device)
    loaded = held_bytes(job.device)
    begun = time.time() - job.started
    curve = [(0, peer_loss(model, rows["held_out"][0]))] if job.every else []

    def after_step(step: int) -> None:
        if job.every and step % job.every == 0:
            curve.append((step, peer_loss(model, rows["held_out"][0])))

    run = train_peer(model, rows["steps"], settings, job.learning_rate, Path(job.folder), after_step, job.device)
    start_s = begun + run.seconds[0]
    works = [_peer_work(step, settings) for step in rows["steps"]]
    learnt = [sum(len(row.answer_ids) for row in step) for step in rows["steps"]]
    said = _said(run, learnt, [count_flops(shape, RANK, work) for work in works], libraries, loaded, start_s, job.device)
    said |= {"held_out": peer_loss(model, rows["held_out"][0]), "curve": curve}
    if job.count:
        last = [rows["steps"][-1]]
        counted = _counted(lambda: train_peer(model, last, settings, job.learning_rate, Path(job.folder), device=job.device))
        said["flops_off"] = counted / _products(shape, works[-1]) - 1
    return said


def search_peer(job: Job, shape: Shape) -> dict[str, Any]:
    """Examples a second of a peer in several settings: one step to warm up, the rest counted."""
    del shape
    steps, rates = read_rows(Path(job.rows))["steps"], {}
    for raw in job.peers:
        settings = PeerSettings(**raw)
        given = [step[: settings.batch * max(1, len(step) // settings.batch)] for step in steps]
        if settings.style == "packed":
            # One micro-batch is one packed row of at least 2,048 tokens; steps hold what they hold.
            given = [[row for step in given for row in step]]
            settings = replace(settings, batch=1)
        model = load_peer(Path(job.folder), job.device)
        run = train_peer(model, given, settings, job.learning_rate, Path(job.folder), device=job.device)
        seconds = run.seconds[1:] or run.seconds
        num = sum(map(len, given)) / len(given) * len(seconds)
        rates[PeerSettings(**raw).name()] = num / sum(seconds)
        print(f"  {PeerSettings(**raw).name()}: {rates[PeerSettings(**raw).name()]:.2f} examples/s", file=sys.stderr, flush=True)
    return {"rates": rates}


def _peer_work(rows: Sequence[Row], settings: PeerSettings) -> Work:
    work = peer_work(batches_of(rows, settings), settings.style == "padded", settings.is_checkpointed)
    # TRL keeps no logits: its fused head computes them once more in the backward pass.
    return replace(work, head_rows_again=work.head_rows if settings.system == "trl" else 0)


def _products(shape: Shape, work: Work) -> float:
    return count_flops(shape, RANK, replace(work, pairs=0))


def _counted(step: Callable[[], object]) -> float:
    """Operations of the products that a step runs, as torch counts them; it leaves out those that add into their result."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    def adding(_: object, left: Sequence[int], right: Sequence[int], *__: object, **___: object) -> int:
        return 2 * left[0] * left[1] * right[1]

    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: adding}) as counter:
        step()
    return counter.get_total_flops()


def _said(
    run: Run, learnt: list[int], flops: list[float], libraries: int, loaded: int, start_s: float, device: str
) -> dict[str, Any]:
    peak = peak_bytes(device)
    return {
        "seconds": run.seconds,
        "cpu": run.cpu,
        "losses": run.losses,
        "learnt": learnt,
        "flops": flops,
        "peak_mib": peak / MIB,
        "above_libraries_mib": (peak - libraries) / MIB,
        "above_model_mib": (peak - loaded) / MIB,
        "first_step_s": start_s,
    }


def main() -> None:
    raw = json.loads(sys.argv[1])
    job = Job(**raw | {"peers": tuple(raw["peers"])})
    shape = Shape(**job.shape)
    import torch

    torch.set_num_threads(job.threads)
    if job.what == "make":
        make_model(shape, Path(job.folder), job.device)
        said: dict[str, Any] = {}
    elif job.what == "adapt":
        adapt_model(Path(job.folder))
        said = {}
    elif job.what == "rate":
        said = measure_matrix_rate(shape, job.device)
    else:
        said = {"whet": run_whet, "peer": run_peer, "search": search_peer}[job.what](job, shape)
    sys.stdout.flush()
    print("\n" + json.dumps(said))


if __name__ == "__main__":
    main()
