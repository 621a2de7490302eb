"""What the base's tokenizer and template make of example rows: answers that are cut, and the share of the loss on the prompt."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from whet.doctor.finding import Context, Findings, error, note, share, warning
from whet.doctor.splits import Rows
from whet.errors import InputError, counted
from whet.records import Example
from whet.text.chat import Chat
from whet.text.piece_model import described
from whet.text.tokenizer import named_tokens

MOST = 2000  # rows of a split that are counted
REMEDY = (
    "mlx-lm: mask_prompt: true; TRL: assistant_only_loss: true, or rows of prompt and completion; Unsloth: "
    "train_on_responses_only; axolotl: train_on_inputs: false; LLaMA-Factory: train_on_prompt: false"
)
# How texts that users rendered themselves open an answer, close it, and open the next question.
MARKS = (
    ("<|im_start|>assistant\n", "<|im_end|>", "<|im_start|>"),
    ("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>", "<|start_header_id|>"),
    ("<start_of_turn>model\n", "<end_of_turn>", "<start_of_turn>"),
    ("[/INST]", "</s>", "[INST]"),
    ("<|assistant|>\n", "<|end|>", "<|user|>"),
    ("### Response:\n", "", "### Instruction:"),
    ("### Assistant:", "", "### Human:"),
)


@dataclass(slots=True)
class Weighed:
    """Tokens of prompts and of answers in train; characters without a tokenizer."""

    prompt: int = 0
    answer: int = 0
    faults: dict[str, list[Example]] = field(default_factory=dict)
    doubled: list[Example] = field(default_factory=list)
    endless: list[Example] = field(default_factory=list)
    """Texts whose last answer is not closed."""
    num_closable: int = 0
    """Texts whose answers have marks that close them."""


def look_tokens(splits: list[Rows], context: Context) -> Findings:
    """All findings that take rendering or counting."""
    try:
        chat = context.chat()
    except InputError:
        return  # the model's own check says it
    begin = _begins_by_itself(chat)
    for rows in splits:
        found, cut = Weighed(), []
        for example in rows.examples[:MOST]:
            try:
                asked, said = sizes(chat, example, every=bool(context.learns_prompt))
            except InputError as fault:
                found.faults.setdefault(fault.what, []).append(example)
                continue
            shape = rows.shapes.get(example.source, "")
            if not context.learns_prompt_of or shape in context.learns_prompt_of:
                found.prompt, found.answer = found.prompt + asked, found.answer + said
            if said and context.max_length is not None and chat is not None and asked + said > context.max_length:
                cut.append(example)
            if not example.messages and chat is not None:
                _count_ends(chat, example, found)
            if begin and not example.messages and example.text.startswith(begin):
                found.doubled.append(example)
        if cut:
            yield error(
                "cut answers",
                cut[0].source,
                f"{share(len(cut), min(len(rows.examples), MOST))} rows of {rows.name} have more than "
                f"{context.max_length:,} tokens",
                "Most trainers cut the end off, which is the answer and its end of turn.",
                "Raise the length limit, or leave these rows out",
            )
        yield from _rendered(rows, found, begin)
        if rows.name == "train":
            yield from _prompt(found, context, "characters" if chat is None else "tokens")


def _rendered(rows: Rows, found: Weighed, begin: str) -> Findings:
    if 10 * len(found.endless) >= max(1, found.num_closable):
        yield error(
            "an end that is never learnt",
            found.endless[0].source,
            f"{share(len(found.endless), found.num_closable)} texts of {rows.name} don't close their last answer",
            "The model never learns to stop; the tokenizer's own end, which trainers add, is another token.",
            "Write the template's end of turn behind each answer",
        )
    for what, examples in found.faults.items():
        yield error(
            "rows that can't be rendered",
            examples[0].source,
            f"{counted(len(examples), 'row')}: {what}",
            "What is trained is not what is asked.",
            "See the place",
        )
    if found.doubled:
        yield warning(
            "a doubled beginning",
            found.doubled[0].source,
            f"{share(len(found.doubled), min(len(rows.examples), MOST))} texts of {rows.name} begin with {begin}, which the "
            "tokenizer adds again by itself",
            "The model learns prompts that begin twice, and is asked ones that begin once.",
            f"Take {begin} out of the texts",
        )


def _count_ends(chat: Chat, example: Example, found: Weighed) -> None:
    """Whether a text closes its last answer. Trainers add the tokenizer's own end: where that is the mark, all is well."""
    opening, closing, _ = next((marks for marks in MARKS if marks[0] in example.text), ("", "", ""))
    if not closing or closing != chat.end_of_turn.strip() or named_tokens(chat.folder).get("eos_token") == closing:
        return
    found.num_closable += 1
    if closing not in example.text.rpartition(opening)[2]:
        found.endless.append(example)


def _prompt(found: Weighed, context: Context, unit: str) -> Findings:
    """The share of the prompt in what is learnt."""
    total = found.prompt + found.answer
    if not context.learns_prompt or not found.prompt or not found.answer:
        return
    part = found.prompt / total
    makes = error if part >= 0.5 else warning if part >= 0.1 else note
    yield makes(
        "loss on the prompt",
        context.learns_prompt,
        f"{part:.0%} of the loss is on the prompt ({found.prompt:,} of {total:,} {unit} of train)",
        "The model learns to write the questions.",
        REMEDY,
    )


def sizes(chat: Chat | None, example: Example, *, every: bool) -> tuple[int, int]:
    """Tokens of the prompt and of the answer; characters without a tokenizer. (0, 0) for texts in which no answer is marked.

    every: whether each of the assistant's turns is an answer; else the last alone.
    """
    if not example.messages:
        return _text_sizes(chat, example.text)
    if len(example.messages) < 2:
        return 0, 0
    numbers = [at for at, message in enumerate(example.messages) if message.role == "assistant" and at]
    counted = [_turn_sizes(chat, example, at) for at in (numbers if every else numbers[-1:])]
    if not counted:
        return 0, 0
    total, answers = sum(counted[-1]), sum(answer for _, answer in counted)
    return total - answers, answers


def _turn_sizes(chat: Chat | None, example: Example, at: int) -> tuple[int, int]:
    """What stands before the turn of that number, and the turn itself."""
    if chat is None:
        return sum(len(message.content) for message in example.messages[:at]), len(example.messages[at].content)
    rendered = chat.training_ids(example.messages[:at], example.messages[at].content.strip())
    return len(rendered.prompt_ids), len(rendered.answer_ids)


def _text_sizes(chat: Chat | None, text: str) -> tuple[int, int]:
    parts = list(answers_in(text))
    if not parts:
        return 0, 0

    def size(some: str) -> int:
        return len(some) if chat is None else len(chat.tokenizer.encode(some))

    said = sum(size(part) for part in parts)
    return max(0, size(text) - said), said


def answers_in(text: str) -> Iterator[str]:
    """The answers, with their ends, in a text that was rendered before; none where no marks of turns are known."""
    for opening, closing, asks in MARKS:
        if opening not in text:
            continue
        for piece in text.split(opening)[1:]:
            said, found, _ = piece.partition(closing) if closing else (piece, "", "")
            yield said.partition(asks)[0] + found
        return


def _begins_by_itself(chat: Chat | None) -> str:
    """The name of the token that the tokenizer puts before a plain text; empty where it puts none."""
    begin = named_tokens(chat.folder).get("bos_token", "") if chat else ""
    return begin if chat and begin and adds_begin(chat, begin) else ""


def adds_begin(chat: Chat, begin: str) -> bool:
    """Whether the tokenizer, asked plainly, puts the beginning before a text."""
    from tokenizers import Tokenizer as FastTokenizer

    fast: Any = FastTokenizer.from_str(described(chat.folder))
    found = fast.encode("a").tokens
    return bool(found) and found[0] == begin
