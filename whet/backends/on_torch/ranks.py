"""Several processes that train one adapter: what they sum, what they agree on, and how they wait for each other."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import ClassVar

import torch
import torch.distributed as dist

from whet.backends.base import Pack
from whet.backends.on_torch.shares import deal, spread
from whet.backends.processes import LostRankError, is_launched
from whet.errors import WhetError

BUCKET_BYTES = 16 << 20  # gradients travel in flat copies of at most so much
# One process builds the data while the others wait. It is no guard against a process that is gone: its connections break.
PATIENCE = timedelta(days=1)
# gloo's, nccl's and the sockets' words for a process that is gone.
LOST_SIGNS = (
    "connection closed",
    "connection reset",
    "connection refused",
    "broken pipe",
    "remote process exited",
    "ncclremoteerror",
)


class Ranks:
    """One process among those that train together; alone where no launcher started it, or after `leave`."""

    _has_left: ClassVar[bool] = False

    def __init__(self) -> None:
        self.local = int(os.environ.get("LOCAL_RANK", "0"))
        if is_launched() and not Ranks._has_left and not dist.is_initialized():
            # Numbers and waiting go by gloo over the CPU; gradients by what their device has.
            has_nccl = torch.cuda.is_available() and dist.is_nccl_available()
            with lost_named():
                dist.init_process_group("cpu:gloo,cuda:nccl" if has_nccl else "gloo", timeout=PATIENCE)
        self.rank = dist.get_rank() if dist.is_initialized() else 0

    @property
    def count(self) -> int:
        return dist.get_world_size() if dist.is_initialized() else 1

    def open(self, device: torch.device) -> None:
        """Take a device for this process alone."""
        if device.type == "cuda":
            torch.cuda.set_device(device)

    def wait(self) -> None:
        """Until all ranks are here."""
        self.sum_numbers(0.0)

    def leave(self) -> None:
        """From here on this process is alone; all ranks call it."""
        if dist.is_initialized():
            self.wait()
            dist.destroy_process_group()
            Ranks._has_left = True

    def share(self, packs: Sequence[Pack], *, is_in_step: bool = False) -> tuple[list[Pack], int]:
        """The packs of a step that are this rank's, and how many passes it makes besides where all ranks go in step."""
        shares = deal(packs, self.count) if is_in_step else spread(packs, self.count)
        own = shares[self.rank]
        return own, max(map(len, shares)) - len(own) if is_in_step else 0

    def any_of(self, said: bool) -> bool:
        """Whether any rank says so."""
        return self.sum_numbers(float(said))[0] > 0

    def first_of(self, numbers: Sequence[float]) -> list[float]:
        """The first rank's numbers on all ranks, in double precision; as many everywhere."""
        is_told = self.rank == 0 or self.count == 1
        return self.sum_numbers(*(numbers if is_told else [0.0] * len(numbers)))

    def sum_numbers(self, *numbers: float) -> list[float]:
        """The sums over all ranks, in double precision."""
        if self.count == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64)
        with lost_named():
            dist.all_reduce(total)
        return [float(number) for number in total]

    def check_same(self, what: str, number: float) -> None:
        """WhetError where a number is not the same on all ranks."""
        found = [torch.zeros(1, dtype=torch.float64) for _ in range(self.count)]
        if self.count > 1:
            with lost_named():
                dist.all_gather(found, torch.tensor([number], dtype=torch.float64))
        if len({float(value) for value in found}) > 1:
            told = ", ".join(f"{float(value):g}" for value in found)
            raise WhetError("", f"the processes do not agree on {what}: {told}", "Do all machines see the same run folder?")

    def sum_gradients(self, weights: Sequence[torch.nn.Parameter]) -> None:
        """Every weight's gradient becomes the sum over all ranks; it stays None where no rank has computed one."""
        if self.count == 1 or not weights:
            return
        has_gradient = torch.tensor([weight.grad is not None for weight in weights], dtype=torch.uint8)
        with lost_named():
            dist.all_reduce(has_gradient, op=dist.ReduceOp.MAX)
            summed = [weight for weight, is_wanted in zip(weights, has_gradient.tolist(), strict=True) if is_wanted]
            for weight in summed:
                if weight.grad is None:
                    weight.grad = torch.zeros_like(weight)
            for bucket in _buckets(weight.grad for weight in summed):
                _sum_bucket(bucket)

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Within, one process a machine at a time."""
        local_count = int(os.environ.get("LOCAL_WORLD_SIZE", self.count))
        turns = local_count if self.count == 1 else int(self._most(local_count))
        for _ in range(self.local):
            self.wait()
        yield
        for _ in range(self.local, turns):
            self.wait()

    def _most(self, number: int) -> int:
        most = torch.tensor([number])
        with lost_named():
            dist.all_reduce(most, op=dist.ReduceOp.MAX)
        return int(most)


@contextmanager
def lost_named() -> Iterator[None]:
    """An exchange that fails since another process is gone becomes one line."""
    try:
        yield
    except RuntimeError as error:
        if not any(sign in str(error).lower() for sign in LOST_SIGNS):
            raise
        raise LostRankError from None


def _buckets(gradients: Iterable[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Gradients of one kind in lists of at most BUCKET_BYTES; a larger one stands alone."""
    bucket: list[torch.Tensor] = []
    size = 0
    for gradient in gradients:
        if bucket and (size + gradient.nbytes > BUCKET_BYTES or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.nbytes
    if bucket:
        yield bucket


def _sum_bucket(bucket: Sequence[torch.Tensor]) -> None:
    if len(bucket) == 1 and bucket[0].is_contiguous():
        dist.all_reduce(bucket[0])
        return
    flat = torch.cat([gradient.flatten() for gradient in bucket])
    dist.all_reduce(flat)
    for gradient, part in zip(bucket, flat.split([gradient.numel() for gradient in bucket]), strict=True):
        gradient.copy_(part.view_as(gradient))
