"""Examples to rows of token ids: the prompt exactly as an engine will send it, and what is learnt behind it."""

from collections.abc import Iterable
from dataclasses import dataclass

from whet.backends.base import Segment
from whet.errors import InputError
from whet.records import Example
from whet.tasks.base import Task
from whet.text.chat import Chat


@dataclass(frozen=True, slots=True)
class Row:
    """One training row: prompt, then the learnt ids (answer and end of turn)."""

    example_id: str
    source: str
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    is_merged: bool

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_ids) + len(self.answer_ids)

    def behind(self, num_prefix: int) -> Segment:
        """The row as a segment behind its first `num_prefix` ids."""
        return Segment((*self.prompt_ids[num_prefix:], *self.answer_ids), len(self.answer_ids))


def encode_example(example: Example, task: Task, chat: Chat) -> Row:
    """The row of one example; an example that can't be rendered raises InputError with its place."""
    try:
        rendered = chat.training_ids(task.ask(example).messages, task.reply(example))
    except InputError as error:
        raise InputError(example.source, error.what, error.remedy) from None
    return Row(example.id, example.source, rendered.prompt_ids, rendered.answer_ids, rendered.is_merged)


def encode(examples: Iterable[Example], task: Task, chat: Chat) -> list[Row]:
    """The rows of many examples, in their order."""
    return [encode_example(example, task, chat) for example in examples]
