"""Looks at what a training run left: checkpoints, trainer_state.json, the weights that were kept."""

import math
import re
import statistics
from pathlib import Path
from typing import Any

from whet.doctor.finding import Context, Findings, error, note, warning
from whet.errors import InputError
from whet.models.described import read_description
from whet.models.weights import read_weights_file

STATE = "trainer_state.json"
NEEDED = {
    "optimizer": ("optimizer.pt", "optimizer.bin", "optimizer.safetensors", "optimizer_0"),
    "schedule": ("scheduler.pt",),
    "random state": ("rng_state.pth", "rng_state_0.pth"),
}
SPIKE = 5.0
LARGE_STATE = 64_000_000
_NUMBER = re.compile(r"checkpoint-(\d+)")


def checkpoints_of(folder: Path) -> list[Path]:
    """Checkpoint folders of transformers' Trainer, the oldest first."""
    found = [path for path in folder.iterdir() if path.is_dir() and _NUMBER.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.partition("-")[2]))


def look(folder: Path, context: Context) -> Findings:
    """All findings about a run folder, or a single checkpoint."""
    checkpoints = checkpoints_of(folder) or ([folder] if _NUMBER.fullmatch(folder.name) else [])
    for checkpoint in checkpoints:
        yield from _resumable(checkpoint, is_last=checkpoint is checkpoints[-1])
    state_path = folder / STATE if (folder / STATE).is_file() else checkpoints[-1] / STATE if checkpoints else None
    if state_path is None or not state_path.is_file():
        return
    try:
        state = read_description(state_path, LARGE_STATE)
    except InputError as fault:
        if "no JSON number" not in fault.what:
            yield error(
                "a run that is not whole",
                fault.place,
                fault.what,
                "It was cut off while it was written.",
                "Take the checkpoint before it",
            )
            return
        yield error(
            "loss that is no number",
            state_path,
            fault.what,
            "Training went on after it broke: its weights are worth nothing.",
            "Lower the learning rate, look at the rows, take a checkpoint before it",
        )
        return
    history = [row for row in state.get("log_history") or [] if isinstance(row, dict)]
    yield from _losses(state_path, history)
    yield from _best(folder, state_path, state, history)


def _resumable(folder: Path, *, is_last: bool) -> Findings:
    names = {path.name for path in folder.iterdir()}
    weights = [path for path in folder.glob("*.safetensors") if path.is_file()]
    for path in weights:
        try:
            read_weights_file(path)
        except InputError as fault:
            yield error(
                "a torn checkpoint",
                path,
                fault.what,
                "The last checkpoint was half written: it resumes from garbage or not at all.",
                "Take the checkpoint before it",
            )
            return
    if not weights and not any(name.endswith((".bin", ".pt", ".distcp")) for name in names):
        yield error("a torn checkpoint", folder, "it holds no weights", "It was half written.", "Take the checkpoint before it")
        return
    missing = [what for what, files in NEEDED.items() if not names & set(files)]
    if missing and is_last:
        yield warning(
            "a resume that forgets",
            folder,
            f"it lacks {', '.join(missing)}",
            "A run that is taken up from it starts with a fresh optimiser or schedule: the loss leaps and the rate is another.",
            "Save them (save_only_model: false), or start again from the beginning",
        )


def _losses(place: Path, history: list[dict[str, Any]]) -> Findings:
    losses = [(row.get("step", 0), float(row["loss"])) for row in history if _is_number(row.get("loss"))]
    norms = [(row.get("step", 0), float(row["grad_norm"])) for row in history if _is_number(row.get("grad_norm"))]
    broken = [
        row.get("step", 0) for row in history if any(_is_broken(row.get(key)) for key in ("loss", "grad_norm", "eval_loss"))
    ]
    if broken:
        yield error(
            "loss that is no number",
            place,
            f"loss or gradient is NaN or infinite at {len(broken)} logged steps, from step {broken[0]} on",
            "Training went on after it broke: its weights are worth nothing.",
            "Lower the learning rate, look at the rows of that step, take a checkpoint before it",
        )
    zeros = [step for step, loss in losses if loss == 0.0]
    if len(zeros) >= 2:
        yield error(
            "loss 0.0",
            place,
            f"the loss is exactly 0.0 at {len(zeros)} of {len(losses)} logged steps, from step {zeros[0]} on",
            "Nothing is learnt: every label is masked, or the answer was cut off.",
            "Look at the labels of one batch; raise the length limit; check the template of the responses",
        )
    still = [step for step, norm in norms if norm == 0.0]
    if norms and len(still) == len(norms):
        yield error(
            "nothing was trained",
            place,
            f"the gradient is 0 at all {len(norms)} logged steps",
            "No weight moved.",
            "Are the adapter's weights trainable, and is anything learnt?",
        )
    for at in range(10, len(losses)):
        usual = statistics.median(loss for _, loss in losses[max(0, at - 50) : at])
        if losses[at][1] > SPIKE * usual and losses[at][1] > 2.0:
            yield warning(
                "loss that leaps",
                place,
                f"the loss leaps from about {usual:.3g} to {losses[at][1]:.3g} at step {losses[at][0]}",
                "One batch with broken rows, or too high a rate, can undo hours.",
                "Look at the rows of that step; clip; lower the rate",
            )
            break
    tail = [loss for _, loss in losses[-max(3, len(losses) // 10) :]]
    if len(losses) >= 10 and min(tail) > 1.5 * min(loss for _, loss in losses) and min(tail) > 0.5:
        yield warning(
            "divergence",
            place,
            f"the loss ends at {losses[-1][1]:.3g}, its least was {min(loss for _, loss in losses):.3g}",
            "Training went on while it got worse.",
            "Take the checkpoint with the least validation loss",
        )


def _best(folder: Path, place: Path, state: dict[str, Any], history: list[dict[str, Any]]) -> Findings:
    evaluated = [(row["step"], float(row["eval_loss"])) for row in history if _is_number(row.get("eval_loss")) and "step" in row]
    if not history:
        return
    if not evaluated:
        yield note(
            "no validation",
            place,
            "no validation loss was logged",
            "Nothing tells when it began to learn by heart.",
            "Give it a validation file (eval_strategy: steps)",
        )
        return
    best, last = min(evaluated, key=lambda pair: pair[1]), evaluated[-1]
    if last[1] > 1.02 * best[1] and not state.get("best_model_checkpoint"):
        yield warning(
            "the last kept, not the best",
            place,
            f"validation loss {best[1]:.4g} at step {best[0]}, {last[1]:.4g} at the last, {last[0]}",
            "The weights that were kept are not the best ones that were measured.",
            f"Take checkpoint-{best[0]} if it is there, and load_best_model_at_end: true next time",
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_broken(value: Any) -> bool:
    is_text = isinstance(value, str) and value.lower() in ("nan", "inf", "-inf", "infinity", "-infinity")
    return is_text or (isinstance(value, float) and not math.isfinite(value))
