"""What is proved before the first step and after the last one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from whet.errors import InputError, ProofError
from whet.models.base_model import BaseModel
from whet.records import Example
from whet.tasks.base import Task
from whet.text.chat import Chat
from whet.train.encode import Row

RELOAD_TOLERANCE = 1e-4  # nats a learnt token between the trained and the reloaded adapter


@dataclass(frozen=True, slots=True)
class Proof:
    """One claim, whether it holds, and with which figures."""

    name: str
    held: bool
    words: str


def prove_input(
    rows: Sequence[Row], examples: Sequence[Example], *, task: Task, chat: Chat, base: BaseModel, max_length: int
) -> list[Proof]:
    """Proofs over every row, computed another way than the rows were made; raises ProofError that lists what fails."""
    requests = {example.id: task.ask(example) for example in examples}
    replies = {example.id: (task.reply(example), requests[example.id].messages) for example in examples}
    wrong_mask, other_prompt, cut, empty, injected = [], [], [], [], []
    vocabulary = int(base.config.get("vocab_size", chat.tokenizer.size))
    for row in rows:
        reply, messages = replies[row.example_id]
        said = chat.tokenizer.decode(row.answer_ids[:-1])
        if not row.answer_ids or row.answer_ids[-1] != chat.end_id or said.strip() != reply.strip():
            wrong_mask.append(row)
        if tuple(chat.prompt_ids(messages)) != row.prompt_ids:
            other_prompt.append(row)
        if row.num_tokens > max_length:
            cut.append(row)
        if not row.answer_ids:
            empty.append(row)
    # What a template adds hangs on who speaks first and whether there is a system message: one conversation of each kind.
    openings = {tuple(message.role for message in messages[:2]): messages for _, messages in replies.values()}
    told = next(((messages, text) for messages in openings.values() if (text := chat.injected_text(messages))), None)
    text = told[1] if told else ""
    if told:
        injected = list(rows[:1])
    num_merged = sum(row.is_merged for row in rows)
    # Such an answer is learnt whole, but an engine will never be given the room to say it.
    num_roomless = sum(len(row.answer_ids) > requests[row.example_id].max_tokens for row in rows)
    roomless = f"; {num_roomless} of the answers have more tokens than task.max_tokens leaves room for" if num_roomless else ""
    unknown = [row for row in rows if max((*row.prompt_ids, *row.answer_ids)) >= vocabulary]
    learnt = sum(len(row.answer_ids) for row in rows)
    total = sum(row.num_tokens for row in rows)
    proofs = [
        _proof(
            "the mask covers exactly the answer and its end of turn",
            wrong_mask,
            f"{learnt} of {total} tokens are learnt in {len(rows)} rows",
        ),
        _proof(
            "the prompt is a token prefix of the whole, as an engine sends it",
            other_prompt,
            f"{len(rows)} prompts rendered again; {num_merged} rows would merge across the seam and keep the prompt's ids",
        ),
        _proof(
            "no answer is cut",
            cut,
            f"longest row {max((row.num_tokens for row in rows), default=0)} of {max_length} tokens{roomless}",
            "Raise train.max_length, or drop over-long rows: data.clean.over_long=drop",
        ),
        _proof("no row is without learnt tokens", empty, f"fewest {min((len(row.answer_ids) for row in rows), default=0)}"),
        _proof(
            "the template adds no words of its own",
            injected,
            f"it writes {text[:80]!r} into the conversation" if text else "rendered without and with a system message",
            "Take these words out of the folder's chat_template.jinja"
            if told and told[0][0].role == "system"
            else "Set task.system to the system message that you want, so that training and serving send the same, or take "
            "these words out of the folder's chat_template.jinja",
        ),
        _proof(
            "every token is in the base's vocabulary",
            unknown,
            f"{vocabulary} entries",
            "Tokenizer and weights belong to different models",
        ),
    ]
    failed = [proof for proof in proofs if not proof.held]
    if failed:
        raise ProofError(str(chat.folder) if injected else "train", "; ".join(f"not so: {p.name} ({p.words})" for p in failed))
    return proofs


def prove_moved(before: dict[str, Any], after: dict[str, Any]) -> Proof:
    """Whether training changed the adapter: the share of its tensors that differ from the start."""
    moved = [name for name, tensor in after.items() if bool((tensor != before[name]).any())]
    proof = Proof("weights moved", len(moved) > 0, f"{len(moved)} of {len(after)} adapter tensors changed")
    if not proof.held:
        raise ProofError(
            "train", "no weight of the adapter changed: nothing was trained", "Raise train.learning_rate or the steps"
        )
    return proof


def prove_reload(loss: float, reloaded: float) -> Proof:
    """Whether the adapter read back from disk gives the validation loss that training measured."""
    proof = Proof(
        "the saved adapter gives the same validation loss",
        abs(loss - reloaded) <= RELOAD_TOLERANCE,
        f"{loss:.6f} in training, {reloaded:.6f} reloaded",
    )
    if not proof.held:
        raise ProofError("train", f"the saved adapter is not the trained one ({proof.words})", "Train again; tell us if it stays")
    return proof


def show_row(row: Row, chat: Chat) -> list[tuple[str, bool]]:
    """One row as text, in two pieces, each with whether it is learnt."""
    decode = chat.tokenizer.decode_all
    return [(decode(row.prompt_ids), False), (decode(row.answer_ids), True)]


def _proof(name: str, offenders: Sequence[Row], words: str, remedy: str = "") -> Proof:
    if not offenders:
        return Proof(name, True, words)
    places = ", ".join(offender.source for offender in offenders[:3])
    more = f" and {len(offenders) - 3} more" if len(offenders) > 3 else ""
    return Proof(name, False, f"{words}; at {places}{more}" + (f". {remedy}" if remedy else ""))


def require_rows(rows: Sequence[Row], split: str) -> None:
    """Training needs rows; an empty split is named."""
    if not rows:
        raise InputError(f"{split}.jsonl", "holds no examples", "Look at the funnel: whet data show")
