"""Compares an exported model with the trained one: same ids for the prompt, same logits, same greedy reply, same score."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whet.export.judging import Judge
from whet.text.parting import parts_at

GREEDY = 64
"""Tokens of a reply that are compared one by one."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a type of numbers may cost."""

    logits: float | None
    """Largest logit difference, for logits of up to 10 in size; larger ones may differ in proportion. None: any."""
    is_greedy: bool
    """Whether greedy replies must be the same but for ties: steps where the trained model's own logits of the two tokens lie no
    further apart than twice the allowed difference."""
    metric_loss: float
    """Most that the task's score may lose."""
    top1: float
    """Least share of tokens whose likeliest token is the trained model's; what holds a quantised type where there is no score."""


# From random models of 1 M parameters: f32 2e-5 (1e-2 where a runner takes GELU from a table), f16 7e-3, bf16 5e-2.
LIMITS: dict[str, Limits] = {
    "fp32": Limits(0.02, True, 0.01, 0.98),
    "f32": Limits(0.02, True, 0.01, 0.98),
    "f16": Limits(0.1, True, 0.01, 0.97),
    "bf16": Limits(0.5, True, 0.02, 0.95),
    "q8_0": Limits(None, False, 0.02, 0.9),
    "q6_k": Limits(None, False, 0.03, 0.85),
}  # fmt: skip
_COARSE = Limits(None, False, 0.05, 0.7)  # 4 and 5 bits
_COARSEST = Limits(None, False, 0.1, 0.5)


def limits_of(kind: str) -> Limits:
    """The limits of a type, by its name."""
    if kind in LIMITS:
        return LIMITS[kind]
    return _COARSE if kind.startswith(("q4", "q5", "iq4", "int4")) else _COARSEST


@dataclass(frozen=True, slots=True)
class Prompt:
    """A held-out prompt: its rendered text, its ids by the trained model's tokenizer, where it comes from."""

    text: str
    ids: tuple[int, ...]
    source: str


@dataclass(frozen=True, slots=True)
class Trained:
    """What the trained model says to a prompt: its greedy reply, and the file with its logits over the first GREEDY tokens."""

    prompt: Prompt
    reply: tuple[int, ...]
    logits_path: Path

    def logits(self) -> NDArray[np.float32]:
        found: NDArray[np.float32] = np.load(self.logits_path, allow_pickle=False)
        return found


@dataclass(slots=True)
class Found:
    """What a comparison found, over all prompts."""

    num_prompts: int = 0
    num_same_ids: int = 0
    num_tokens: int = 0
    """Positions whose logits were compared: the end of each prompt and the trained model's reply."""
    num_top1: int = 0
    largest: float = 0.0
    """Largest logit difference."""
    largest_at: str = ""
    scale: float = 0.0
    """Largest logit of the trained model, in size."""
    num_greedy: int = 0
    """Replies that are the same over GREEDY tokens."""
    num_ties: int = 0
    """Replies that part at a tie."""
    faults: list[str] = field(default_factory=list)
    metric: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def ask_trained(judge: Judge, prompts: Sequence[Prompt], max_tokens: int, end_ids: Sequence[int], folder: Path) -> list[Trained]:
    """The trained model's replies, with their logits in files of `folder`."""
    found = []
    for number, prompt in enumerate(prompts):
        reply = judge.continue_ids(prompt.ids, max_tokens, end_ids)
        path = folder / f"{number}.npy"
        np.save(path, judge.logits((*prompt.ids, *reply[: GREEDY - 1]), len(prompt.ids) - 1))
        found.append(Trained(prompt, tuple(reply), path))
    return found


def compare(
    judge: Judge,
    trained: Sequence[Trained],
    kind: str,
    max_tokens: int,
    end_ids: Sequence[int],
    say: Callable[[int], None] = lambda done: None,
) -> tuple[Found, list[list[int]]]:
    """What a form says to the same prompts, and its replies. Faults name the prompt and the place."""
    found, limits = Found(), limits_of(kind)
    replies: list[list[int]] = []
    for number, one in enumerate(trained):
        _compare_ids(judge, one, found)
        wanted = one.logits()
        logits = judge.logits((*one.prompt.ids, *one.reply[: GREEDY - 1]), len(one.prompt.ids) - 1)
        if logits.shape != wanted.shape:
            found.faults.append(f"the vocabulary has {logits.shape[1]:,} tokens, the trained model's {wanted.shape[1]:,}")
            return found, replies
        off = np.abs(logits - wanted).max(axis=1)
        found.num_tokens += len(off)
        found.num_top1 += int((logits.argmax(axis=1) == wanted.argmax(axis=1)).sum())
        found.scale = max(found.scale, float(np.abs(wanted).max()))
        if float(off.max()) > found.largest or not np.isfinite(off).all():
            found.largest = float(off.max())
            found.largest_at = f"{one.prompt.source}, token {int(off.argmax())} of the reply"
        allowed = None if limits.logits is None else limits.logits * max(1.0, float(np.abs(wanted).max()) / 10)
        reply = judge.continue_ids(one.prompt.ids, max_tokens, end_ids)
        replies.append(reply)
        _compare_replies(one, reply, wanted, allowed, limits, found)
        say(number + 1)
    _judge(found, limits)
    return found, replies


def _compare_ids(judge: Judge, one: Trained, found: Found) -> None:
    found.num_prompts += 1
    ids = judge.tokenize([one.prompt.text])[0]
    if ids == list(one.prompt.ids):
        found.num_same_ids += 1
        return
    wanted = list(one.prompt.ids)
    at = parts_at(wanted, ids)
    parted = f"({wanted[at : at + 4]} became {ids[at : at + 4]})"
    found.faults.append(f"tokenizer: {one.prompt.source} has other ids from token {at} on {parted}")


def _compare_replies(
    one: Trained, reply: list[int], wanted: NDArray[np.float32], allowed: float | None, limits: Limits, found: Found
) -> None:
    ours, theirs = list(one.reply[:GREEDY]), reply[:GREEDY]
    if ours == theirs:
        found.num_greedy += 1
        return
    at = next((at for at, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
    if at is None or at >= len(wanted):
        at = min(len(ours), len(theirs), len(wanted)) - 1
    gap = float(wanted[at].max() - wanted[at][theirs[at]])
    if allowed is not None and gap <= 2 * allowed:
        found.num_ties += 1
    elif limits.is_greedy:
        found.faults.append(
            f"logits: the greedy reply to {one.prompt.source} parts at token {at}, where the trained model's logits are "
            f"{gap:.3g} apart"
        )


def _judge(found: Found, limits: Limits) -> None:
    if limits.logits is not None:
        allowed = limits.logits * max(1.0, found.scale / 10)
        if not found.largest <= allowed:
            found.faults.append(
                f"logits: they differ by up to {found.largest:.3g} ({found.largest_at}); {allowed:.3g} is allowed"
            )
    share = found.num_top1 / max(1, found.num_tokens)
    if share < limits.top1:
        found.faults.append(f"logits: the likeliest token is the same in {share:.1%} of places; {limits.top1:.0%} are wanted")


def metric_row(headline: Mapping[str, Any], trained: Mapping[str, Any], limits: Limits) -> tuple[dict[str, Any], str]:
    """A form's score beside the trained model's, and a fault where it lost more than is allowed (empty where not)."""
    lost = trained["value"] - headline["value"]
    row = {**headline, "trained": trained, "lost": lost, "most": limits.metric_loss}
    if lost <= limits.metric_loss + 1e-9:
        return row, ""
    return row, (
        f"task: {headline['name']} fell from {trained['value']:.3f} to {headline['value']:.3f} on {headline['num']} examples; "
        f"{limits.metric_loss:g} may be lost"
    )
