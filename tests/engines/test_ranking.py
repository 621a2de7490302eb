"""Ranking choices on a server: exact against a model of a few tokens, or refused."""

import math
from typing import Any

import pytest
from fake_server import FakeServer, Reply, Seen, chat, tokens

from whet.engines.http import HttpEngine, HttpSettings
from whet.errors import InputError
from whet.records import Message, Request

VOCABULARY = ["A", "B", "蹇", "義", "蹇義", "?", "!"]
PROMPT = [90, 91, 92]


def log_prob(path: list[int], token: int) -> float:
    """The made-up model: how likely a token is behind others."""
    logits = [math.sin(7.0 * (sum(path) + 1) * (at + 1)) for at in range(len(VOCABULARY))]
    return logits[token] - math.log(sum(map(math.exp, logits)))


def split(text: str) -> list[int]:
    """The vocabulary's longest tokens first."""
    ids: list[int] = []
    while text:
        token = max((t for t in VOCABULARY if text.startswith(t)), key=len)
        ids.append(VOCABULARY.index(token))
        text = text[len(token) :]
    return ids


def likelihood(choice: str) -> float:
    ids = split(choice)
    return sum(log_prob(ids[:at], token) for at, token in enumerate(ids))


def vllm(seen: Seen) -> Any:
    if seen.path == "/tokenize":
        assert seen.body.get("add_generation_prompt", True)
        return {"tokens": PROMPT if "messages" in seen.body else split(seen.body["prompt"])}
    assert (seen.path, seen.body["prompt_logprobs"]) == ("/v1/completions", 0)
    given = [
        [None, *({str(t): {"logprob": log_prob(ids[3:at], t) if at >= 3 else -1.0}} for at, t in enumerate(ids) if at)]
        for ids in seen.body["prompt"]
    ]
    choices = [{"index": number, "prompt_logprobs": entry} for number, entry in enumerate(given)]
    return {"choices": choices[::-1], "usage": {"prompt_tokens": 20, "completion_tokens": 4}}


def llama(seen: Seen) -> Any:
    if seen.path == "/apply-template":
        return {"prompt": "<p>"}
    if seen.path == "/tokenize":
        return {"tokens": PROMPT if seen.body["content"] == "<p>" else split(seen.body["content"])}
    assert (seen.path, seen.body["n_predict"], seen.body["prompt"][:3]) == ("/completion", 1, PROMPT)
    ((token, bias),) = seen.body["logit_bias"]
    assert bias > 1000
    found = log_prob(seen.body["prompt"][3:], token)
    return {"completion_probabilities": [{"id": token, "token": VOCABULARY[token], "logprob": found, "top_logprobs": []}]}


def first_token(seen: Seen) -> Any:
    num = seen.body["top_logprobs"]
    listed = sorted(((t.encode(), log_prob([], at)) for at, t in enumerate(VOCABULARY)), key=lambda pair: -pair[1])[:num]
    return chat("A", "length", logprobs={"content": tokens((b"A", -1.0), tops=listed)})


def engine(server: FakeServer, dialect: Any, **more: Any) -> HttpEngine:
    return HttpEngine(HttpSettings(url=server.url, dialect=dialect, model="m", backoff_s=0.001, retries=1, **more))


def asked(*choices: str, **more: Any) -> Request:
    return Request((Message("user", "a"),), 4, choices, **more)


@pytest.mark.parametrize(("dialect", "reply"), [("vllm", vllm), ("llama.cpp", llama)])
def test_any_choice_is_ranked_where_the_server_gives_what_it_needs(dialect: str, reply: Any) -> None:
    choices = ("A", "B", "蹇義", "蹇?", "義A蹇義", "義A!")
    with FakeServer(reply) as server:
        to = engine(server, dialect)
        assert to.rank(asked(*choices)) == pytest.approx([likelihood(choice) for choice in choices])
    assert to.usage.completion_tokens > 0
    if dialect == "llama.cpp":  # what choices begin with in common is asked once
        assert server.paths().count("/completion") == 2 + 1 + 2 + 3 + 1


def test_vllm_ranks_with_an_adapter() -> None:
    with FakeServer(vllm) as server:
        engine(server, "vllm").rank(asked("A", "B", adapter="officials"))
    assert {seen.body["model"] for seen in server.seen} == {"officials"}


def test_elsewhere_choices_of_one_token_are_ranked() -> None:
    with FakeServer(first_token) as server:
        ranks = engine(server, "openai").rank(asked("A", "B", "蹇"))
    assert ranks == pytest.approx([likelihood(choice) for choice in ("A", "B", "蹇")])
    (seen,) = server.seen
    assert (seen.body["max_tokens"], seen.body["logprobs"], seen.body["top_logprobs"]) == (1, True, 20)


def test_a_text_that_is_two_tokens_of_the_vocabulary_counts_both() -> None:
    listed = [(b"A", math.log(0.25)), (b"B", math.log(0.2)), (b"A", math.log(0.5))]
    with FakeServer(lambda seen: chat("A", "length", logprobs={"content": tokens((b"A", -1.0), tops=listed)})) as server:
        assert engine(server, "openai").rank(asked("A", "B")) == pytest.approx([math.log(0.75), math.log(0.2)])


@pytest.mark.parametrize(
    ("choices", "more", "words"),
    [
        (("A", "義A"), {}, "'義A' is not one token among the 7 likeliest"),
        (tuple(VOCABULARY), {"top_logprobs": 3}, "among the 3 likeliest"),
    ],
)
def test_what_can_not_be_told_exactly_is_refused(choices: tuple[str, ...], more: dict[str, Any], words: str) -> None:
    with FakeServer(first_token) as server, pytest.raises(InputError, match=words):
        engine(server, "openai", **more).rank(asked(*choices))


@pytest.mark.parametrize(
    ("dialect", "reply", "words"),
    [
        ("openai", lambda seen: chat("A"), "gives no log-probabilities"),
        ("openai", lambda seen: {}, "gives no log-probabilities"),
        ("ollama", lambda seen: {"done": True}, "gives no log-probabilities"),
        ("openai", lambda seen: Reply({"error": "no"}, 400), "status 400: no"),
        ("vllm", lambda seen: {"tokens": "x"}, "no token ids"),
        ("vllm", lambda seen: vllm(seen) if seen.path == "/tokenize" else {"choices": []}, "prompt's tokens"),
        ("vllm", lambda seen: vllm(seen) if seen.path == "/tokenize" else {"choices": [{"index": 0, "prompt_logprobs": [None] * 4}]},
         "prompt's tokens"),
        ("llama.cpp", lambda seen: {}, "no prompt"),
        ("llama.cpp", lambda seen: llama(seen) if seen.path != "/completion" else {}, "how likely a given token"),
        ("llama.cpp", lambda seen: llama(seen) if seen.path != "/completion"
         else {"completion_probabilities": [{"id": 5, "logprob": -0.1}]}, "how likely a given token"),
    ],
)  # fmt: skip
def test_a_server_that_gives_too_little_is_refused(dialect: str, reply: Any, words: str) -> None:
    with FakeServer(reply) as server, pytest.raises(InputError, match=words):
        engine(server, dialect).rank(asked("A", "B"))
