"""The engine over a local backend: renders with the model's template, keeps to constraints, says how sure each token was."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

from whet.backends.base import Ask, Backend, Generated, Guide, Pack, Segment
from whet.backends.replies import unheld
from whet.errors import InputError
from whet.records import Completion, Request, Step
from whet.text.chat import Chat

MOST_FAILED = 32  # requests that can't be asked, one after the other, before they are told


class LocalEngine:
    """A base on this machine, with the adapters that its backend has."""

    def __init__(self, name: str, backend: Backend, chat: Chat, max_length: int, adapters: Collection[str] = ()) -> None:
        self.name = name
        self.backend, self.chat, self.max_length = backend, chat, max_length
        self.adapters = adapters
        """Names of the adapters that the backend holds."""
        self._constrainer: Any = None

    def answer(self, requests: Sequence[Request]) -> list[Completion]:
        completions = dict(self.answer_each(requests))
        return [completions[number] for number in range(len(requests))]

    def answer_each(self, requests: Iterable[Request]) -> Iterator[tuple[int, Completion]]:
        asked: dict[int, tuple[int, int]] = {}
        """By the number of an ask that is in flight: the number of its request, and the tokens of its prompt."""
        failed: list[tuple[int, Completion]] = []
        numbered, is_over = enumerate(requests), False

        def asks() -> Iterator[Ask]:
            nonlocal is_over
            num_asked = 0
            for number, request in numbered:
                made = self._ask(request)
                if isinstance(made, Completion):
                    failed.append((number, made))
                    if len(failed) == MOST_FAILED:
                        return  # they are given before more is drawn
                    continue
                asked[num_asked] = number, len(made.ids)
                num_asked += 1
                yield made
            is_over = True

        while not is_over:
            for at, generated in self.backend.generate(asks(), [self.chat.end_id]):
                yield from _drain(failed)
                number, num_prompt = asked.pop(at)
                yield number, self._completion(generated, num_prompt)
            yield from _drain(failed)

    def rank(self, request: Request) -> list[float]:
        prompt = tuple(self.chat.prompt_ids(request.messages))
        segments = []
        for choice in request.choices:
            ids = self.chat.choice_ids(request.messages, choice)[:-1]
            # The prompt's last id predicts the first learnt one, so it stands in the segment.
            segments.append(Segment((prompt[-1], *ids), len(ids)))
        longest = max(segment.num_learnt for segment in segments)
        if len(prompt) + longest > self.max_length:
            raise InputError("", f"the prompt has {len(prompt)} tokens; the base holds {self.max_length}")
        self._check_adapter(request.adapter)
        return self.backend.log_likelihoods(Pack(prompt[:-1], tuple(segments)), request.adapter)

    def _check_adapter(self, name: str | None) -> None:
        if name is not None and name not in self.adapters:
            raise unheld(name, self.adapters)

    def _ask(self, request: Request) -> Ask | Completion:
        """What the backend is asked, or why it can't be."""
        num_prompt = 0
        try:
            self._check_adapter(request.adapter)
            ids = self.chat.prompt_ids(request.messages)
            num_prompt = len(ids)
            if num_prompt + request.max_tokens > self.max_length:
                raise InputError(
                    "",
                    f"the prompt has {num_prompt} tokens, the reply may have {request.max_tokens}; the base "
                    f"holds {self.max_length}",
                )
            guide: Guide | None = None
            draft: tuple[int, ...] = ()
            if request.constraint is not None:
                guide = self._guide(request)
                if request.constraint.source is not None:
                    draft = tuple(self.chat.tokenizer.encode(request.constraint.source))
        except InputError as error:
            return Completion("", "error", num_prompt, error=str(error))
        return Ask(tuple(ids), request.max_tokens, guide, request.adapter, request.temperature, request.seed, draft)

    def _guide(self, request: Request) -> Guide:
        if self._constrainer is None:
            from whet.text.constrain import Constrainer

            self._constrainer = Constrainer.of_chat(self.chat)
        # Begun here, where a budget that can't hold a reply is this request's fault alone.
        return BegunGuide(self._constrainer.guide(request.constraint), request.max_tokens)

    def _completion(self, made: Generated, num_prompt: int) -> Completion:
        decode = self.chat.tokenizer.decode
        text = decode(made.ids)
        ends = whole_ends(made.ids, text, decode) if made.log_probs or made.num_own is not None else []
        steps: tuple[Step, ...] = ()
        if made.log_probs:
            steps = tuple(Step(end, log) for end, log in zip([*ends, len(text)], made.log_probs, strict=False))
        cut_at = None if made.num_own is None else (ends[made.num_own - 1] if made.num_own else 0)
        # A reply whose end was forced used up its budget, though its JSON is whole.
        is_whole = made.is_ended and cut_at is None
        num_tokens = len(made.ids) + made.is_ended
        return Completion(text, "stop" if is_whole else "length", num_prompt, num_tokens, steps=steps, cut_at=cut_at)


class BegunGuide:
    """A guide whose first ids were asked for before."""

    def __init__(self, guide: Guide, left: int) -> None:
        self.guide, self.first = guide, guide.begin(left)
        self.is_ended, self.num_own = guide.is_ended, guide.num_own

    def begin(self, left: int) -> tuple[int, ...]:
        return self.first

    def mask(self) -> Any:
        return self.guide.mask()

    def take(self, token: int, left: int) -> tuple[int, ...]:
        stands = self.guide.take(token, left)
        self.is_ended, self.num_own = self.guide.is_ended, self.guide.num_own
        return stands


def whole_ends(ids: Sequence[int], text: str, decode: Callable[[Sequence[int]], str]) -> list[int]:
    """For each id how many characters of `text`, which all ids decode to, are whole once it stands."""
    ends: list[int] = []
    first = start = 0  # the id that decoding begins with, and where its text starts
    for at in range(len(ids)):
        piece = decode(ids[first : at + 1])
        if text.startswith(piece, start):
            first, start = at + 1, start + len(piece)
            ends.append(start)
        else:  # bytes of a character that is not whole yet
            ends.append(start + _common(piece, text[start : start + len(piece)]))
    if start == len(text):
        return ends
    # Some tokenizers write an id otherwise at the start of a text.
    return [_common(decode(ids[: at + 1]), text) for at in range(len(ids))]


def _common(a: str, b: str) -> int:
    """Characters that both begin with."""
    return next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _drain(found: list[tuple[int, Completion]]) -> Iterator[tuple[int, Completion]]:
    while found:
        yield found.pop(0)
