"""How likely a server's model finds each of a few given replies."""

import math
from collections.abc import Mapping
from typing import Any

from whet.engines.dialects import NO_THOUGHT, Asking, ShapeError, as_json, body, log_prob_of, read_counts, top_tokens
from whet.engines.wire import Wire
from whet.records import Request

FORCE = 1e4  # added to a logit: no other one can come near


async def rank(wire: Wire, asking: Asking, request: Request, top_logprobs: int) -> list[float]:
    """For each choice the log-likelihood of that reply, in nats. RefusedError or ShapeError where it can't be told exactly."""
    if asking.dialect == "vllm":
        return await _rank_by_prompts(wire, asking, request)
    if asking.dialect == "llama.cpp":
        return await _rank_by_force(wire, asking, request)
    return await _rank_by_first_token(wire, asking, request, top_logprobs)


async def _rank_by_prompts(wire: Wire, asking: Asking, request: Request) -> list[float]:
    """vLLM: the log-probabilities of a prompt's tokens, where the prompt goes on with the choice."""
    model = request.adapter or asking.model
    ids = _ids(
        await wire.send(
            "/tokenize",
            {
                "model": model,
                "messages": as_json(request.messages),
                "add_generation_prompt": True,
                "chat_template_kwargs": NO_THOUGHT,
            },
        )
    )
    replies = [
        _ids(await wire.send("/tokenize", {"model": model, "prompt": choice, "add_special_tokens": False}))
        for choice in request.choices
    ]
    prompts = [ids + reply for reply in replies]
    num_tokens = sum(map(len, prompts)) + len(prompts)
    sent = {"model": model, "prompt": prompts, "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
    said = await wire.send("completions", sent | {"add_special_tokens": False}, num_tokens)
    wire.count(read_counts(asking, said), num_tokens)
    found = said.get("choices")
    by_index = {c.get("index"): c.get("prompt_logprobs") for c in found if isinstance(c, dict)} if isinstance(found, list) else {}
    ranks = []
    for number, prompt in enumerate(prompts):
        given = by_index.get(number)
        if not isinstance(given, list) or len(given) != len(prompt):
            raise ShapeError("it gives no log-probabilities of the prompt's tokens")
        ranks.append(sum(_prompt_log_prob(given[at], prompt[at]) for at in range(len(ids), len(prompt))))
    return ranks


def _prompt_log_prob(entry: Any, token: int) -> float:
    found = log_prob_of(entry.get(str(token))) if isinstance(entry, dict) else None
    if found is None:
        raise ShapeError("it gives no log-probabilities of the prompt's tokens")
    return found


async def _rank_by_force(wire: Wire, asking: Asking, request: Request) -> list[float]:
    """llama.cpp: token after token of a choice is forced by its logit, and the server says how likely it was before that."""
    said = await wire.send("/apply-template", {"messages": as_json(request.messages), "chat_template_kwargs": NO_THOUGHT})
    prompt = said.get("prompt")
    if not isinstance(prompt, str):
        raise ShapeError("it gives no prompt for the messages")
    ids = _ids(await wire.send("/tokenize", {"content": prompt, "add_special": True, "parse_special": True}))
    known: dict[tuple[int, ...], float] = {}  # what choices begin with in common is asked once
    ranks = []
    for choice in request.choices:
        reply = _ids(await wire.send("/tokenize", {"content": choice, "add_special": False, "parse_special": False}))
        for num in range(1, len(reply) + 1):
            path = tuple(reply[:num])
            if path not in known:
                known[path] = await _forced_log_prob(wire, asking, ids + reply[: num - 1], reply[num - 1])
        ranks.append(sum(known[tuple(reply[:num])] for num in range(1, len(reply) + 1)))
    return ranks


async def _forced_log_prob(wire: Wire, asking: Asking, prompt: list[int], token: int) -> float:
    sent = {
        "prompt": prompt,
        "n_predict": 1,
        "n_probs": 1,
        "temperature": 0.0,
        "logit_bias": [[token, FORCE]],
        "cache_prompt": True,
    }
    said = await wire.send("/completion", {"model": asking.model, **sent}, len(prompt) + 1)
    wire.count((len(prompt), 1), len(prompt) + 1)
    entries = said.get("completion_probabilities")
    entry = entries[0] if isinstance(entries, list) and entries else None
    found = log_prob_of(entry)
    if found is None or not isinstance(entry, dict) or entry.get("id") != token:
        raise ShapeError("it does not say how likely a given token is")
    return found


async def _rank_by_first_token(wire: Wire, asking: Asking, request: Request, top_logprobs: int) -> list[float]:
    """Any other server: exact where each choice is one token that is among the likeliest ones."""
    one = Request(request.messages, 1, adapter=request.adapter, seed=request.seed)
    num_tokens = estimate(one)
    said = await wire.send(asking.path, body(asking, one, top_logprobs), num_tokens)
    wire.count(read_counts(asking, said), num_tokens)
    tops = top_tokens(asking, said)
    ranks = []
    for choice in request.choices:
        # Some vocabularies hold one text twice, once for the beginning of a word: either of them writes this reply.
        same = [log_prob for piece, log_prob in tops if piece == choice.encode("utf-8", "surrogatepass")]
        if not same:
            raise ShapeError(
                f"{choice!r} is not one token among the {len(tops)} likeliest, so how likely it is can't be told exactly; "
                "raise engine.top_logprobs, or ask a llama.cpp or vLLM server"
            )
        ranks.append(max(same) + math.log(sum(math.exp(log_prob - max(same)) for log_prob in same)))
    return ranks


def _ids(reply: Mapping[str, Any]) -> list[int]:
    tokens = reply.get("tokens")
    if not isinstance(tokens, list) or not tokens or not all(isinstance(token, int) for token in tokens):
        raise ShapeError("it gives no token ids for a text")
    return tokens


def estimate(request: Request) -> int:
    """Tokens that a request may take: a token a character, and its whole budget. Corrected when the server has counted."""
    return sum(len(message.content) for message in request.messages) + request.max_tokens
