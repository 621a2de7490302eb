"""The engine over a local backend: renders with the model's template, answers greedily."""

from collections.abc import Sequence

from whet.backends.base import Backend, Pack, Segment
from whet.errors import InputError
from whet.records import Completion, Request
from whet.text.chat import Chat


class LocalEngine:
    """A base on this machine, with the adapter that its backend has attached."""

    def __init__(self, name: str, backend: Backend, chat: Chat, max_length: int) -> None:
        self.name = name
        self.backend, self.chat, self.max_length = backend, chat, max_length

    def answer(self, requests: Sequence[Request]) -> list[Completion]:
        completions: dict[int, Completion] = {}
        prompts: dict[int, list[int]] = {}
        for number, request in enumerate(requests):
            try:
                ids = self.chat.prompt_ids(request.messages)
            except InputError as error:
                completions[number] = Completion("", "error", error=str(error))
                continue
            if len(ids) + request.max_tokens > self.max_length:
                completions[number] = Completion(
                    "",
                    "error",
                    len(ids),
                    error=f"the prompt has {len(ids)} tokens, the reply may have {request.max_tokens}; the base "
                    f"holds {self.max_length}",
                )
                continue
            prompts[number] = ids
        for limit in sorted({requests[number].max_tokens for number in prompts}):
            numbers = [number for number in prompts if requests[number].max_tokens == limit]
            made = self.backend.generate([prompts[number] for number in numbers], limit, [self.chat.end_id])
            for number, result in zip(numbers, made, strict=True):
                text = self.chat.tokenizer.decode(result.ids)
                completions[number] = Completion(
                    text, "stop" if result.is_ended else "length", len(prompts[number]), len(result.ids) + result.is_ended
                )
        return [completions[number] for number in range(len(requests))]

    def rank(self, request: Request) -> list[float]:
        prompt = tuple(self.chat.prompt_ids(request.messages))
        segments = []
        for choice in request.choices:
            ids = tuple(self.chat.training_ids(request.messages, choice).answer_ids[:-1])
            # The prompt's last id predicts the first learnt one, so it stands in the segment.
            segments.append(Segment((prompt[-1], *ids), len(ids)))
        longest = max(segment.num_learnt for segment in segments)
        if len(prompt) + longest > self.max_length:
            raise InputError("", f"the prompt has {len(prompt)} tokens; the base holds {self.max_length}")
        return self.backend.log_likelihoods(Pack(prompt[:-1], tuple(segments)))
