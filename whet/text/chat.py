"""Renders messages with the model's own chat template and says which tokens are learnt."""

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from whet.errors import InputError
from whet.records import Message
from whet.text.tokenizer import Tokenizer, named_tokens, read_template

MAX_RENDERED = 4_000_000  # characters; a template that writes more is looping (as in sandbox.py, which opens Jinja)
ROLE_WORDS = frozenset(
    ["system", "user", "assistant", "human", "model", "instruction", "response", "question", "answer", "input", "bot"]
)
_MARK = "\ue0a7whet\ue0a8"  # private-use characters: no template holds them
_PARTERS = [chr(number) for number in range(0xE0A9, 0xE0B9)]  # private-use characters: texts hold few of them, if any


@dataclass(frozen=True, slots=True)
class Rendered:
    """One training conversation as token ids: the prompt, and what is learnt (the answer and its end of turn)."""

    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    is_merged: bool
    """Whether encoding prompt and answer in one piece would give other ids at the seam. Training uses the ids that
    serving will see: the prompt's own, then the answer's."""

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_ids) + len(self.answer_ids)


class Chat:
    """The chat format of one model folder: template, tokenizer, end-of-turn token; `lead` is the white space before a reply."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokenizer = Tokenizer(folder)
        self.template = read_template(folder)
        self._tokens = named_tokens(folder)
        self._compiled = _compile(self.template, str(folder))
        names = sorted(self.tokenizer.special_tokens(), key=len, reverse=True)
        self._marks = re.compile("|".join(map(re.escape, names)) or r"(?!)")
        self.end_of_turn, self.end_id, self.lead = self._find_end()

    def render(self, messages: Sequence[Message], *, is_prompt: bool) -> str:
        """The text of a conversation; with `is_prompt`, opened for the assistant's turn."""
        self._refuse_marks(messages)
        turns = [asdict(message) for message in messages]
        return _rendered(self._compiled, turns, self._tokens, str(self.folder), is_prompt=is_prompt)

    def _refuse_marks(self, messages: Sequence[Message]) -> None:
        """InputError where a text holds a mark of the template: it would end the user's turn and speak as somebody else."""
        for message in messages:
            if found := self._marks.search(message.content):
                raise InputError(
                    "", f"the text holds {found.group()!r}, a mark of the chat template", "Take it out of the source"
                )

    def _parted(self, text: str, part: str) -> str:
        """A text whose marks have a character put in, so that no tokenizer takes them for marks; those of one letter stay."""
        before = None
        while before != text:  # where two marks overlap, the second shows when the first is parted
            before, text = text, self._marks.sub(lambda found: found[0][0] + part * (len(found[0]) > 1) + found[0][1:], text)
        return text

    def render_talk(self, turns: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """The prompt of a conversation in which tools are offered, called and answer.

        turns, tools: as transformers hands them to a template: role, content, tool_calls with arguments as a table; JSON schemas.
        """
        return _rendered(self._compiled, turns, self._tokens, str(self.folder), is_prompt=True, tools=tools)

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """The token ids that an engine sends for these messages. Marks of the template inside a text are letters like others."""
        if not any(self._marks.search(message.content) for message in messages):
            return self.tokenizer.encode(self.render(messages, is_prompt=True))
        texts = "".join(message.content for message in messages)
        part = next((one for one in _PARTERS if one not in texts and one not in self.template), "")
        parted = [replace(message, content=self._parted(message.content, part)) for message in messages]
        rendered = self.render(parted, is_prompt=True)
        try:
            return self.tokenizer.encode_parted(rendered, part)
        except InputError:
            self._refuse_marks(messages)
            raise

    def choice_ids(self, messages: Sequence[Message], choice: str) -> tuple[int, ...]:
        """The ids of a choice, with its end; marks inside a text, on which they do not hang, are parted by a space."""
        plain = [replace(message, content=self._parted(message.content, " ")) for message in messages]
        return self.training_ids(plain, choice).answer_ids

    def training_ids(self, messages: Sequence[Message], reply: str) -> Rendered:
        """Prompt and learnt ids of a conversation whose next turn is `reply`.

        The whole conversation is rendered once more and must begin with the prompt and go on with exactly the reply
        and the end of turn; anything else raises InputError, since the model would be trained on another text than
        the one it is asked to write.
        """
        prompt = self.render(messages, is_prompt=True)
        whole = self.render([*messages, Message("assistant", reply)], is_prompt=False)
        if not whole.startswith(prompt):
            raise InputError(
                str(self.folder),
                "its chat template does not begin a finished conversation with the prompt of the open one",
                f"The prompt ends in {prompt[-40:]!r}; the finished text goes on differently",
            )
        rest = whole[len(prompt) :]
        answer = self.lead + reply + self.end_of_turn
        if not rest.startswith(answer):
            raise InputError(
                str(self.folder),
                f"its chat template changes the reply: {reply[:30]!r} becomes {rest[:40]!r}",
                "Replies must not begin or end with white space, nor hold marks of the template",
            )
        prompt_ids = self.tokenizer.encode(prompt)
        together = self.tokenizer.encode(prompt + answer)
        is_merged = together[: len(prompt_ids)] != prompt_ids
        answer_ids = self.tokenizer.encode(answer) if is_merged else together[len(prompt_ids) :]
        return Rendered(tuple(prompt_ids), tuple(answer_ids), is_merged)

    def injected_text(self, messages: Sequence[Message]) -> str:
        """What the template writes into these messages by itself beside marks and role names; empty if nothing.

        A system message of a mark shows how the template opens and closes a system turn. Where the messages bring a
        system message, that turn must hold nothing else; where they don't, no such turn may have been opened, and no
        words may stand before the first turn. Nor may any stand between the question and the reply.
        """
        first = next(message for message in messages if message.role != "system")
        before, _, after = self.render([Message(first.role, _MARK)], is_prompt=True).partition(_MARK)
        if words := _words_in(after):
            return words
        try:
            shown = self.render([Message("system", _MARK), Message("user", _MARK * 2)], is_prompt=True)
        except InputError:
            return _words_in(before)  # this template has no system turn
        opening, _, rest = shown.partition(_MARK)
        closing = rest.partition(_MARK * 2)[0]
        if messages[0].role == "system":
            return _words_in(opening) or _words_in(closing)
        if opening.strip() and closing.strip() and before.startswith(opening) and before.endswith(closing):
            return before[len(opening) : len(before) - len(closing)].strip() or before.strip()
        return _words_in(before)

    def _find_end(self) -> tuple[str, int, str]:
        """The token that ends an assistant's turn: its text, its id, and the white space that stands before a reply."""
        asked = [Message("user", "a")]
        prompt = self.render(asked, is_prompt=True)
        whole = self.render([*asked, Message("assistant", _MARK)], is_prompt=False)
        lead, _, tail = whole.removeprefix(prompt).rpartition(_MARK)
        for token, number in sorted(self.tokenizer.special_tokens().items(), key=lambda item: -len(item[0])):
            if tail.lstrip().startswith(token):
                return tail[: tail.index(token)] + token, number, lead if not lead.strip() else ""
        raise InputError(
            str(self.folder),
            "its chat template ends an assistant's turn with no special token",
            "A model trained on it would never stop; take a template with an end-of-turn token",
        )


def render_with(
    template: str, messages: Sequence[Message], tokens: Mapping[str, str], place: str, *, is_prompt: bool = True
) -> str:
    """The prompt of these messages by a template that stands in no model folder (a GGUF file's, say).

    tokens: bos_token and eos_token. Marks inside the messages are the caller's to look for.
    """
    return _rendered(_compile(template, place), [asdict(turn) for turn in messages], tokens, place, is_prompt=is_prompt)


def _rendered(
    compiled: Any,
    turns: Sequence[Mapping[str, Any]],
    tokens: Mapping[str, str],
    place: str,
    *,
    is_prompt: bool,
    tools: Sequence[Mapping[str, Any]] = (),
) -> str:
    size, parts = 0, []
    try:
        compiled.environment.begin()
        for part in compiled.generate(
            messages=[*turns],
            add_generation_prompt=is_prompt,
            tools=[*tools] or None,
            # Templates of thinking models then open and close an empty thought in prompt and answer alike.
            documents=None,
            enable_thinking=False,
            **{name: tokens.get(name, "") for name in ("bos_token", "eos_token")},
        ):
            size += len(part)
            if size > MAX_RENDERED:
                raise ValueError("it writes without end")
            parts.append(part)
    except Exception as error:  # template code can raise anything
        raise InputError(
            place,
            f"its chat template fails on {', '.join(str(turn['role']) for turn in turns)} ({error})",
            "Change the messages (a system message may not be supported: task.system=null)",
        ) from None
    return "".join(parts)


@functools.lru_cache(maxsize=8)
def _compile(template: str, place: str) -> Any:
    """The template in the sandbox."""
    import jinja2

    from whet.text.sandbox import Sandbox

    environment = Sandbox()

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def strftime_now(_: str) -> str:
        raise jinja2.TemplateError("it writes today's date, so tomorrow's prompt would not be the trained one")

    environment.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now}
    try:
        return environment.from_string(template)
    except Exception as error:  # Jinja writes Python, whose compiler raises what it likes at deep nesting or long numbers
        raise InputError(place, f"its chat template is broken ({str(error)[:200]})") from None


def _words_in(text: str) -> str:
    """Text that is more than marks and role names: two or more other words, or ideographs, outside <...> and [...]."""
    plain = re.sub(r"<[^<>]*>|\[/?[A-Z_]+\]|<</?[A-Z]+>>", " ", text)
    words = re.findall(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+", plain)
    return plain.strip() if sum(word.lower() not in ROLE_WORDS for word in words) >= 2 else ""
