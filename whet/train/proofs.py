"""What is proved before the first step and after the last one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from whet.errors import InputError, ProofError
from whet.models.base_model import BaseModel
from whet.records import Example, Request
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
    rows: Sequence[Row],
    examples: Sequence[Example],
    *,
    task: Task,
    chat: Chat,
    base: BaseModel,
    max_length: int,
    num_new: int = 0,
) -> list[Proof]:
    """Proofs over every row, computed another way than the rows were made; raises ProofError that lists what fails.

    num_new: entries of the vocabulary that training will make weights for, where they are more than the base's.
    """
    requests = {example.id: task.ask(example) for example in examples}
    template = _prove_template(rows, requests, chat)
    proofs = [
        _prove_mask(rows, {example.id: task.reply(example) for example in examples}, chat),
        _prove_prompt(rows, requests, chat),
        _prove_length(rows, requests, max_length),
        _proof(
            "no row is without learnt tokens",
            [row for row in rows if not row.answer_ids],
            f"fewest {min((len(row.answer_ids) for row in rows), default=0)}",
        ),
        template,
        _prove_vocabulary(rows, max(num_new, int(base.config.get("vocab_size", chat.tokenizer.size)))),
    ]
    failed = [proof for proof in proofs if not proof.held]
    if failed:
        place = "train" if template.held else str(chat.folder)
        raise ProofError(place, "; ".join(f"not so: {proof.name} ({proof.words})" for proof in failed))
    return proofs


def _prove_mask(rows: Sequence[Row], replies: Mapping[str, str], chat: Chat) -> Proof:
    def is_wrong(row: Row) -> bool:
        said = chat.tokenizer.decode(row.answer_ids[:-1])
        return not row.answer_ids or row.answer_ids[-1] != chat.end_id or said.strip() != replies[row.example_id].strip()

    learnt, total = sum(len(row.answer_ids) for row in rows), sum(row.num_tokens for row in rows)
    return _proof(
        "the mask covers exactly the answer and its end of turn",
        [row for row in rows if is_wrong(row)],
        f"{learnt} of {total} tokens are learnt in {len(rows)} rows",
    )


def _prove_prompt(rows: Sequence[Row], requests: Mapping[str, Request], chat: Chat) -> Proof:
    num_merged = sum(row.is_merged for row in rows)
    return _proof(
        "the prompt is a token prefix of the whole, as an engine sends it",
        [row for row in rows if tuple(chat.prompt_ids(requests[row.example_id].messages)) != row.prompt_ids],
        f"{len(rows)} prompts rendered again; {num_merged} rows would merge across the seam and keep the prompt's ids",
    )


def _prove_length(rows: Sequence[Row], requests: Mapping[str, Request], max_length: int) -> Proof:
    # Such an answer is learnt whole, but an engine will never be given the room to say it.
    num_roomless = sum(len(row.answer_ids) > requests[row.example_id].max_tokens for row in rows)
    roomless = f"; {num_roomless} of the answers have more tokens than task.max_tokens leaves room for" if num_roomless else ""
    return _proof(
        "no answer is cut",
        [row for row in rows if row.num_tokens > max_length],
        f"longest row {max((row.num_tokens for row in rows), default=0)} of {max_length} tokens{roomless}",
        "Raise train.max_length, or drop over-long rows: data.clean.over_long=drop",
    )


def _prove_template(rows: Sequence[Row], requests: Mapping[str, Request], chat: Chat) -> Proof:
    # What a template adds hangs on who speaks first and whether there is a system message: one conversation of each kind.
    openings = {tuple(message.role for message in request.messages[:2]): request.messages for request in requests.values()}
    told = next(((messages, text) for messages in openings.values() if (text := chat.injected_text(messages))), None)
    name = "the template adds no words of its own"
    if told is None:
        return _proof(name, [], "rendered without and with a system message")
    messages, text = told
    remedy = (
        "Take these words out of the folder's chat_template.jinja"
        if messages[0].role == "system"
        else "Set task.system to the system message that you want, so that training and serving send the same, or take "
        "these words out of the folder's chat_template.jinja"
    )
    return _proof(name, rows[:1], f"it writes {text[:80]!r} into the conversation", remedy)


def _prove_vocabulary(rows: Sequence[Row], vocabulary: int) -> Proof:
    return _proof(
        "every token is in the base's vocabulary",
        [row for row in rows if max((*row.prompt_ids, *row.answer_ids)) >= vocabulary],
        f"{vocabulary} entries",
        "Tokenizer and weights belong to different models",
    )


def prove_moved(before: dict[str, str], after: dict[str, str]) -> Proof:
    """Whether training changed the adapter: the share of its tensors whose hashes differ from the start."""
    # Read back, a model that was trained in part gives digests of all its tensors: those that were trained count.
    lost = sorted(before.keys() - after.keys())
    if lost:
        raise ProofError("train", f"{len(lost)} trained tensors are not in the saved adapter, such as {lost[0]}", "Train again")
    moved = [name for name, digest in before.items() if after[name] != digest]
    proof = Proof("weights moved", len(moved) > 0, f"{len(moved)} of {len(before)} trained tensors changed")
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
