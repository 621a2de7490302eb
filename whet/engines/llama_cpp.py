"""The engine over a GGUF file, computed by llama.cpp in this process: its own template, greedy, choices ranked exactly."""

import importlib.util
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from whet.config import Settings
from whet.errors import InputError, MissingExtraError
from whet.models.gguf_file import GgufFile, read_gguf
from whet.records import Completion, Request, Step
from whet.text.chat import render_with
from whet.text.kept import broken

MOST_TOKENS = 8192  # of a context that nobody set: a model made for 128 k would take gigabytes


class GgufSettings(Settings):
    """A GGUF file that answers in this process."""

    kind: Literal["gguf"] = "gguf"
    """The engine's name."""
    path: Path
    """The file."""
    context_length: int | None = Field(default=None, ge=16)
    """Most tokens of prompt and reply; null takes what the model was made for, 8,192 at most."""
    threads: int | None = Field(default=None, ge=1)
    """Threads that compute; null leaves it to llama.cpp."""


class LlamaCppEngine:
    """llama.cpp with one model. Constraints of JSON are not enforced here: replies are checked, and breaks are told."""

    def __init__(self, settings: GgufSettings, name: str = "gguf") -> None:
        if importlib.util.find_spec("llama_cpp") is None:
            raise MissingExtraError("llama-cpp-python", "llamacpp", f"asking {settings.path.name} in this process")
        import llama_cpp

        self.name = name
        header = read_gguf(settings.path)  # checked here: llama.cpp believes a file's own numbers
        length = settings.context_length or min(MOST_TOKENS, _trained_length(header))
        try:
            # One logical batch for the whole prompt would cost memory; llama.cpp splits it by itself.
            self._model: Any = llama_cpp.Llama(
                str(settings.path),
                n_ctx=length,
                n_threads=settings.threads,
                n_threads_batch=settings.threads,
                logits_all=False,
                verbose=False,
            )
        except (ValueError, RuntimeError, OSError) as error:
            raise InputError(str(settings.path), f"can't be opened by llama.cpp ({error})") from None
        self.max_length = length
        self.template = header.text("tokenizer.chat_template") or ""
        if not self.template:
            raise InputError(str(settings.path), "has no chat template", "Export it anew, with the template of its base")
        self._place = str(settings.path)
        self._last: tuple[list[int], Any] | None = None
        """The ids whose next token was computed last, and its log-probabilities: choices of one letter share them."""
        self._ends = frozenset(self._end_tokens())
        self.end_of_turn = self._piece(self._model.token_eos())

    def close(self) -> None:
        """Let go of the model's memory."""
        self._model.close()

    def answer(self, requests: Sequence[Request]) -> list[Completion]:
        return [self._complete(request) for request in requests]

    def answer_each(self, requests: Iterable[Request]) -> Iterator[tuple[int, Completion]]:
        for number, request in enumerate(requests):
            yield number, self._complete(request)

    def rank(self, request: Request) -> list[float]:
        prompt = self._prompt(request)
        ranks = []
        for choice in request.choices:
            reply = self._model.tokenize(choice.encode(), add_bos=False, special=False)
            if len(prompt) + len(reply) > self.max_length:
                raise InputError("", f"the prompt has {len(prompt)} tokens; the model holds {self.max_length}")
            total, ids = 0.0, list(prompt)
            for token in reply:
                total += self._log_probs(ids)[token]
                ids.append(token)
            ranks.append(float(total))
        return ranks

    def _complete(self, request: Request) -> Completion:
        """Greedy; a sampled reply is refused, since its luck would be llama.cpp's own."""
        if request.temperature or request.adapter is not None:
            return Completion("", "error", error="a GGUF file answers greedily and without adapters here")
        num_prompt = 0
        try:
            ids = self._prompt(request)
            num_prompt = len(ids)
            if num_prompt + request.max_tokens > self.max_length:
                raise InputError(
                    "",
                    f"the prompt has {num_prompt} tokens, the reply may have {request.max_tokens}; "
                    f"the model holds {self.max_length}",
                )
            said, log_probs, is_ended = self._write(ids, request.max_tokens)
        except (InputError, RuntimeError) as error:
            return Completion("", "error", num_prompt, error=str(error))
        ends = [len(self._text(said[: at + 1])) for at in range(len(said))] if len(said) < 1024 else []
        steps = tuple(Step(end, log_prob) for end, log_prob in zip(ends, log_probs, strict=False))
        text = self._text(said)
        violation = broken(text, request.constraint) if request.constraint is not None else ""
        finish: Literal["stop", "length"] = "stop" if is_ended else "length"
        return Completion(text, finish, num_prompt, len(said) + is_ended, steps=steps, violation=violation)

    def _write(self, ids: list[int], budget: int) -> tuple[list[int], list[float], bool]:
        """New tokens, their log-probabilities, and whether the turn ended within the budget (its end counts)."""
        said: list[int] = []
        log_probs: list[float] = []
        for _ in range(budget):
            logs = self._log_probs(ids + said)
            token = int(logs.argmax())
            if token in self._ends:
                return said, log_probs, True
            said.append(token)
            log_probs.append(float(logs[token]))
        return said, log_probs, False

    def _log_probs(self, ids: list[int]) -> Any:
        """Log-probabilities of the next token, float64 [vocabulary]; what the model has seen already is kept."""
        import numpy as np

        if self._last is not None and self._last[0] == ids:
            return self._last[1]
        model = self._model
        held = model._input_ids[: model.n_tokens].tolist()
        same = 0
        while same < len(held) and same < len(ids) - 1 and held[same] == ids[same]:
            same += 1
        model.n_tokens = same
        model.eval(ids[same:])
        size = model.n_vocab()
        logits = np.ctypeslib.as_array(model._ctx.get_logits(), shape=(size,)).astype(np.float64)
        top = logits.max()
        if not math.isfinite(top):
            raise RuntimeError("the model's logits are no numbers")
        found: np.ndarray = logits - (top + math.log(np.exp(logits - top).sum()))
        self._last = (list(ids), found)
        return found

    def _prompt(self, request: Request) -> list[int]:
        """The ids of the rendered prompt. A beginning-of-text mark that the template writes is not written twice."""
        for message in request.messages:
            # A mark of the template inside a text would end the user's turn and speak as somebody else.
            raw = message.content.encode("utf-8", "replace")
            as_marks, as_text = (self._model.tokenize(raw, add_bos=False, special=special) for special in (True, False))
            if as_marks != as_text:
                raise InputError("", "the text holds a mark of the chat template", "Take it out of the source")
        names = {"bos_token": self._piece(self._model.token_bos()), "eos_token": self._piece(self._model.token_eos())}
        text = render_with(self.template, request.messages, names, self._place)
        ids: list[int] = self._model.tokenize(text.encode(), add_bos=False, special=True)
        return ids

    def _end_tokens(self) -> Iterator[int]:
        """Every token that ends a turn, by the file's own word."""
        model = self._model._model
        vocabulary = model.vocab
        from llama_cpp import llama_vocab_is_eog

        yield from (token for token in range(self._model.n_vocab()) if llama_vocab_is_eog(vocabulary, token))

    def _piece(self, token: int) -> str:
        if token < 0:
            return ""
        return str(self._model.detokenize([token], special=True).decode("utf-8", "replace"))

    def _text(self, ids: Sequence[int]) -> str:
        return str(self._model.detokenize(list(ids)).decode("utf-8", "ignore"))


def _trained_length(header: GgufFile) -> int:
    """Positions that the model was made for, as the file's header says."""
    length = header.fields.get(f"{header.text('general.architecture')}.context_length", 2048)
    return int(length)
