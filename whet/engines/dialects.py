"""What each kind of server is sent for a request, and what its reply says."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeGuard

from whet.engines.grammars import RECORDS, gbnf, json_schema, lark
from whet.records import Constraint, Message, Request, Step

Name = Literal["openai", "llama.cpp", "vllm", "ollama"]
Enforce = Literal["schema", "json_object", "object", "gbnf", "llguidance", "none"]
BEST: dict[Name, Enforce] = {"openai": "schema", "llama.cpp": "gbnf", "vllm": "schema", "ollama": "schema"}
"""What each kind of server can be asked to keep, without a setting of its own."""
TAKES: dict[Name, frozenset[Enforce]] = {
    "openai": frozenset({"schema", "json_object", "object", "none"}),
    "llama.cpp": frozenset({"schema", "json_object", "gbnf", "llguidance", "none"}),
    "vllm": frozenset({"schema", "gbnf", "llguidance", "none"}),
    "ollama": frozenset({"schema", "none"}),
}
ENDS = {"stop": "stop", "eos": "stop", "eos_token": "stop", "stop_sequence": "stop", "end_turn": "stop", "length": "length"}
ENDS |= {"max_tokens": "length", "model_length": "length"}
MOST_TOKENS = 10**9  # a larger count is none
# A server's defaults are not the model's distribution: a penalty on repeats changes even greedy replies.
PLAIN: dict[Name, dict[str, Any]] = {
    "openai": {},
    "vllm": {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
    "llama.cpp": {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0},
    "ollama": {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0},
}
FORMS = frozenset({"response_format", "format", "grammar", "structured_outputs"})
"""Fields that carry a constraint."""
_FORM_WORDS = re.compile(r"response_format|schema|grammar|format|structured|guided", re.IGNORECASE)
NO_THOUGHT = {"enable_thinking": False}  # as the local engine renders templates of thinking models


class ShapeError(Exception):
    """A reply that is not what this kind of server says."""


@dataclass(frozen=True, slots=True)
class Asking:
    """How one server is asked, whatever the request."""

    dialect: Name
    model: str
    enforce: Enforce
    has_logprobs: bool = False
    temperature: float | None = None
    """None takes the request's own."""
    seed: int | None = None
    context_length: int | None = None
    budget_name: str = "max_tokens"
    leave_out: tuple[str, ...] = ()
    extra: Mapping[str, Any] | None = None

    @property
    def path(self) -> str:
        """Where a conversation is sent."""
        return "/api/chat" if self.dialect == "ollama" else "chat/completions"


@dataclass(frozen=True, slots=True)
class Said:
    """What a reply says."""

    text: str
    finish: Literal["stop", "length"]
    steps: tuple[Step, ...] = ()


def body(asking: Asking, request: Request, top_logprobs: int = 0) -> dict[str, Any]:
    """The JSON that asks for a reply. top_logprobs: that many likeliest tokens beside each of the reply."""
    sent: dict[str, Any] = {"model": request.adapter or asking.model, "messages": as_json(request.messages), "stream": False}
    sampling: dict[str, Any] = {
        "temperature": request.temperature if asking.temperature is None else asking.temperature,
        "seed": request.seed if asking.seed is None else asking.seed,
    }
    if asking.dialect == "ollama":
        # A prompt that is longer than its context would be cut in silence.
        sent |= {"think": False, "truncate": False, "shift": False}
        sampling |= {"num_predict": request.max_tokens}
        sampling |= {"num_ctx": asking.context_length} if asking.context_length else {}
    else:
        sent[asking.budget_name] = request.max_tokens
    if asking.dialect in ("llama.cpp", "vllm"):
        sent["chat_template_kwargs"] = NO_THOUGHT
    if asking.has_logprobs or top_logprobs:
        # llama.cpp gives none at all for 0 of them.
        sent |= {"logprobs": True, "top_logprobs": max(1, top_logprobs)}
    sampling |= PLAIN[asking.dialect]
    sent |= {"options": sampling} if asking.dialect == "ollama" else sampling
    if request.constraint is not None:
        sent |= enforced(asking, request.constraint)
    for name, value in (asking.extra or {}).items():
        sent[name] = sent[name] | value if isinstance(sent.get(name), dict) and isinstance(value, dict) else value
    return {name: value for name, value in sent.items() if name not in asking.leave_out}


def as_json(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Messages as every server takes them."""
    return [asdict(message) for message in messages]


def enforced(asking: Asking, constraint: Constraint) -> dict[str, Any]:
    """What asks a server to keep a constraint while it writes."""
    if asking.enforce == "none":
        return {}
    if asking.enforce in ("gbnf", "llguidance"):
        grammar = gbnf(constraint) if asking.enforce == "gbnf" else lark(constraint)
        return {"structured_outputs": {"grammar": grammar}} if asking.dialect == "vllm" else {"grammar": grammar}
    schema = json_schema(constraint, is_object=asking.enforce == "object")
    if asking.dialect == "ollama":
        return {"format": schema}
    if asking.enforce == "json_object":
        return {"response_format": {"type": "json_object", "schema": schema}}
    return {"response_format": {"type": "json_schema", "json_schema": {"name": RECORDS, "strict": True, "schema": schema}}}


def remedy(asking: Asking, sent: Mapping[str, Any], error: str) -> str:
    """What may help where a server does not take a field that it was sent, going by the words of its error; empty if nothing."""
    if sent.keys() & FORMS and _FORM_WORDS.search(error):
        others = ", ".join(sorted(TAKES[asking.dialect] - {asking.enforce, "none"}))
        return f". It was asked for engine.enforce={asking.enforce}; take {others}, or none, which asks for nothing"
    if "max_completion_tokens" in error and asking.budget_name == "max_tokens":
        return ". Set engine.budget_name=max_completion_tokens"
    names = [name for name in sent if name not in FORMS | {"model", "messages", "stream"} and re.search(rf"\b{name}", error)]
    return f". If it does not take {', '.join(names)}, set engine.leave_out=[{','.join(names)}]" if names else ""


def read_counts(asking: Asking, reply: Mapping[str, Any]) -> tuple[int, int] | None:
    """Prompt and completion tokens, as the server counted them; None where it did not."""
    if asking.dialect == "ollama":
        # It leaves the prompt's count out where it had the whole prompt in its cache.
        found = reply.get("prompt_eval_count", 0), reply.get("eval_count")
    else:
        usage = reply.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        found = usage.get("prompt_tokens"), usage.get("completion_tokens")
    prompt, completion = found
    if _is_count(prompt) and _is_count(completion):
        return prompt, completion
    return None


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS


def read(asking: Asking, reply: Mapping[str, Any]) -> Said:
    """The text of a reply, how it ended, and its tokens' log-probabilities if they spell it. ShapeError where it has none."""
    if asking.dialect == "ollama":
        if reply.get("done") is not True:
            raise ShapeError("it does not say that it is done")
        message, end, logprobs = reply.get("message"), reply.get("done_reason"), reply.get("logprobs")
    else:
        choices = reply.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            raise ShapeError("it has no choices")
        message, end, logprobs = choice.get("message"), choice.get("finish_reason"), _content(choice.get("logprobs"))
    if not isinstance(message, dict):
        raise ShapeError("it has no message")
    finish = ENDS.get(end.lower()) if isinstance(end, str) else None
    if end == "content_filter":
        raise ShapeError("the server's content filter stopped it")
    if finish is None:
        raise ShapeError(f"it ended for the reason {str(end)[:40]!r}, which is not known here")
    text = message.get("content")
    refusal = message.get("refusal")
    if not text and isinstance(refusal, str) and refusal:
        text = refusal  # the model's answer, though no records: it counts as unread, not as a failed request
    if text is None and finish == "length":
        text = ""  # all of its budget went into a thought
    if not isinstance(text, str):
        raise ShapeError("it has no text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ShapeError("its text holds a lone surrogate, which is no character") from None
    return Said(text, "stop" if finish == "stop" else "length", read_steps(text, logprobs))


def _content(logprobs: Any) -> Any:
    return logprobs.get("content") if isinstance(logprobs, dict) else None


def read_steps(text: str, tokens: Any) -> tuple[Step, ...]:
    """Each token's end and log-probability. Empty where they do not spell the text: offsets are right, or there are none.

    An end-of-turn token that is listed after the text keeps its place at the text's end.
    """
    if not isinstance(tokens, list):
        return ()
    steps, raw, whole = [], b"", text.encode()
    for token in tokens:
        piece, log_prob = piece_of(token), log_prob_of(token)
        if piece is None or log_prob is None:
            return ()
        raw += piece
        if not whole.startswith(raw[: len(whole)]):
            return ()
        steps.append((min(len(raw), len(whole)), log_prob))
    if len(raw) < len(whole):
        return ()
    ends = [0] * (len(whole) + 1)
    for at in range(len(whole)):  # a character is whole where the next one begins
        ends[at + 1] = ends[at] + (at + 1 == len(whole) or (whole[at + 1] & 0xC0) != 0x80)
    return tuple(Step(ends[at], log_prob) for at, log_prob in steps)


def piece_of(token: Any) -> bytes | None:
    """The bytes of a token of a list of log-probabilities; None where it has none."""
    if not isinstance(token, dict):
        return None
    raw, text = token.get("bytes"), token.get("token")
    if isinstance(raw, list) and all(isinstance(byte, int) and 0 <= byte <= 255 for byte in raw):
        return bytes(raw)
    try:
        return text.encode() if isinstance(text, str) and "\ufffd" not in text else None
    except UnicodeEncodeError:
        return None


def log_prob_of(token: Any) -> float | None:
    """A token's log-probability in nats; None where it is none."""
    value = token.get("logprob") if isinstance(token, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value > 1e-6:
        return None
    return min(float(value), 0.0) if abs(value) < 1e300 else None


def top_tokens(asking: Asking, reply: Mapping[str, Any]) -> list[tuple[bytes, float]]:
    """The likeliest first tokens of a reply with their log-probabilities; ShapeError where the server gives none."""
    tokens: Any = reply.get("logprobs")
    if asking.dialect != "ollama":
        choices = reply.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        tokens = _content(choice.get("logprobs")) if isinstance(choice, dict) else None
    first = tokens[0] if isinstance(tokens, list) and tokens else None
    tops = first.get("top_logprobs") if isinstance(first, dict) else None
    if not isinstance(tops, list):
        raise ShapeError("it gives no log-probabilities")
    return [
        (piece, log_prob)
        for token in tops
        if (piece := piece_of(token)) is not None and (log_prob := log_prob_of(token)) is not None
    ]
