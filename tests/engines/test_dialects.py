"""What each kind of server is sent, and what is made of whatever it says back."""

import itertools
import math
from typing import Any

import pytest
from fake_server import chat, tokens
from hypothesis import given
from hypothesis import strategies as st

from whet.engines.dialects import Asking, ShapeError, body, log_prob_of, read, read_counts, read_steps, remedy, top_tokens
from whet.records import Constraint, FieldRule, Message, Request, Step

CONSTRAINT = Constraint((FieldRule("name", "span", max_chars=8),), "少師蹇義卒。")
REQUEST = Request((Message("system", "s"), Message("user", "少師蹇義卒。")), 64, constraint=CONSTRAINT, temperature=0.5, seed=7)
MESSAGES = [{"role": "system", "content": "s"}, {"role": "user", "content": "少師蹇義卒。"}]


def asking(dialect: Any = "openai", enforce: Any = "schema", **more: Any) -> Asking:
    return Asking(dialect, "m", enforce, **more)


def ollama(text: str = "[]", **more: Any) -> dict[str, Any]:
    return {"done": True, "done_reason": "stop", "message": {"role": "assistant", "content": text}, **more}


def test_the_openai_kind_is_sent_what_everybody_knows_and_nothing_else() -> None:
    sent = body(asking(), REQUEST)
    form = sent.pop("response_format")
    assert sent == {"model": "m", "messages": MESSAGES, "stream": False, "max_tokens": 64, "temperature": 0.5, "seed": 7}
    assert (form["type"], form["json_schema"]["strict"]) == ("json_schema", True)
    assert form["json_schema"]["schema"]["items"]["properties"]["name"]["maxLength"] == 8


def test_the_object_kind_asks_for_an_object() -> None:
    schema = body(asking(enforce="object"), REQUEST)["response_format"]["json_schema"]["schema"]
    assert schema["type"] == "object"


def test_the_older_form_of_a_schema_can_be_asked_for() -> None:
    for dialect in ("openai", "llama.cpp"):
        form = body(asking(dialect, "json_object"), REQUEST)["response_format"]
        assert (form["type"], form["schema"]["type"]) == ("json_object", "array")


def test_ollama_is_sent_its_own_fields_and_told_to_cut_nothing() -> None:
    sent = body(asking("ollama", context_length=4096, has_logprobs=True), REQUEST)
    assert (sent["format"]["type"], sent["think"], sent["truncate"], sent["shift"]) == ("array", False, False, False)
    assert sent["options"] == {
        "temperature": 0.5, "seed": 7, "num_predict": 64, "num_ctx": 4096, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0,
    }  # fmt: skip
    assert (sent["logprobs"], asking("ollama").path, "max_tokens" in sent) == (True, "/api/chat", False)


@pytest.mark.parametrize(("dialect", "penalty"), [("llama.cpp", "repeat_penalty"), ("vllm", "repetition_penalty")])
def test_a_servers_own_sampling_and_thoughts_are_switched_off(dialect: str, penalty: str) -> None:
    sent = body(asking(dialect), REQUEST)
    assert (sent[penalty], sent["top_p"], sent["min_p"]) == (1.0, 1.0, 0.0)
    assert sent["chat_template_kwargs"] == {"enable_thinking": False}


def test_grammars_go_where_each_server_looks_for_them() -> None:
    assert body(asking("llama.cpp", "gbnf"), REQUEST)["grammar"].startswith("root ::=")
    assert body(asking("llama.cpp", "llguidance"), REQUEST)["grammar"].startswith("%llguidance {")
    assert "SOURCE" in body(asking("vllm", "llguidance"), REQUEST)["structured_outputs"]["grammar"]
    assert body(asking("vllm", "gbnf"), REQUEST)["structured_outputs"]["grammar"].startswith("root ::=")


@pytest.mark.parametrize("dialect", ["openai", "llama.cpp", "vllm", "ollama"])
def test_nothing_is_enforced_that_is_not_asked_for(dialect: str) -> None:
    free = Request(REQUEST.messages, 8)
    for sent in (body(asking(dialect, "none"), REQUEST), body(asking(dialect, "schema"), free)):
        assert not sent.keys() & {"response_format", "format", "grammar", "structured_outputs"}


def test_settings_win_over_the_request_and_fields_can_be_renamed_left_out_and_added() -> None:
    sent = body(
        asking("vllm", temperature=0.0, seed=1, budget_name="max_completion_tokens", leave_out=("top_k", "seed"),
               extra={"chat_template_kwargs": {"x": 1}, "reasoning_effort": "low"}),
        REQUEST,
    )  # fmt: skip
    assert (sent["temperature"], sent["max_completion_tokens"], sent["reasoning_effort"]) == (0.0, 64, "low")
    assert sent["chat_template_kwargs"] == {"enable_thinking": False, "x": 1}
    assert not sent.keys() & {"max_tokens", "seed", "top_k"}


@pytest.mark.parametrize(
    ("dialect", "error", "words"),
    [
        (
            "openai",
            "status 400: Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
            "Set engine.budget_name=max_completion_tokens",
        ),
        ("openai", "status 400: temperature and seed are fixed for this model", "set engine.leave_out=[temperature,seed]"),
        ("ollama", 'status 400: "m" does not support thinking', "set engine.leave_out=[think]"),
        (
            "openai",
            "status 500: response_format.type: Input should be 'text'",
            "engine.enforce=schema; take json_object, object, or none",
        ),
        ("vllm", "status 400: Grammar error: no such rule", "engine.enforce=schema; take gbnf, llguidance, or none"),
        ("openai", "status 404: no such model", ""),
    ],
)
def test_an_error_about_a_field_says_how_to_leave_it_out(dialect: str, error: str, words: str) -> None:
    to = asking(dialect)
    said = remedy(to, body(to, REQUEST), error)
    assert words in said
    assert bool(said) == bool(words)


def test_an_adapter_is_a_model_by_name() -> None:
    assert body(asking("vllm"), Request(REQUEST.messages, 8, adapter="officials"))["model"] == "officials"


@pytest.mark.parametrize(
    ("reply", "finish"),
    [(chat("[]"), "stop"), (chat("[]", "length"), "length"), (chat("[]", "eos_token"), "stop"), (chat("[]", "STOP"), "stop")],
)
def test_a_reply_says_how_it_ended(reply: dict[str, Any], finish: str) -> None:
    said = read(asking(), reply)
    assert (said.text, said.finish) == ("[]", finish)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ({}, "no choices"),
        ({"choices": []}, "no choices"),
        ({"choices": {"0": 1}}, "no choices"),
        ({"choices": [{"finish_reason": "stop"}]}, "no message"),
        (chat(None), "no text"),
        (chat(3), "no text"),  # type: ignore[arg-type]
        (chat("[]", None), "reason 'None'"),
        (chat("[]", "tool_calls"), "reason 'tool_calls'"),
        (chat("[]", "content_filter"), "content filter"),
        (chat("\ud800"), "surrogate"),
    ],
)
def test_what_is_no_reply_is_none(reply: dict[str, Any], words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        read(asking(), reply)


def test_a_refusal_is_the_models_answer() -> None:
    reply = chat(None)
    reply["choices"][0]["message"]["refusal"] = "I can't."
    assert read(asking(), reply).text == "I can't."


def test_a_budget_that_went_into_a_thought_leaves_an_empty_text() -> None:
    said = read(asking(), chat(None, "length"))
    assert (said.text, said.finish) == ("", "length")


def test_ollama_replies_are_read_too() -> None:
    said = read(asking("ollama"), ollama("蹇", logprobs=tokens(("蹇".encode(), -0.5))))
    assert (said.text, said.finish, said.steps) == ("蹇", "stop", (Step(1, -0.5),))
    with pytest.raises(ShapeError, match="not say that it is done"):
        read(asking("ollama"), ollama(done=False))
    assert read_counts(asking("ollama"), ollama(prompt_eval_count=9, eval_count=4)) == (9, 4)
    assert read_counts(asking("ollama"), ollama(eval_count=4)) == (0, 4)  # the prompt stood in its cache
    assert read_counts(asking("ollama"), ollama()) is None


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": 3}, {"prompt_tokens": -1, "completion_tokens": 2}, [], "3",
                                   {"prompt_tokens": True, "completion_tokens": 2}, {"prompt_tokens": 10**30, "completion_tokens": 2}])  # fmt: skip
def test_counts_that_are_none_are_not_made_up(usage: Any) -> None:
    assert read_counts(asking(), {"usage": usage}) is None


def test_steps_end_where_characters_are_whole() -> None:
    text = "a蹇😀。"
    raw = text.encode()
    cuts = [0, 1, 3, 4, 7, len(raw)]
    listed = tokens(*((raw[a:b], -float(b)) for a, b in itertools.pairwise(cuts)))
    assert [step.end for step in read_steps(text, listed)] == [1, 1, 2, 2, 4]
    assert [step.log_prob for step in read_steps(text, listed)] == [-1.0, -3.0, -4.0, -7.0, -11.0]


def test_an_end_token_that_is_listed_stands_at_the_end() -> None:
    listed = tokens((b"[]", -0.1), (b"<|im_end|>", -0.2))
    assert read_steps("[]", listed) == (Step(2, -0.1), Step(2, -0.2))


@pytest.mark.parametrize(
    "listed",
    [
        None,
        [],
        "[]",
        [None],
        tokens((b"[", -0.1)),
        tokens((b"[)", -0.1)),
        [{"token": "[]"}],
        [{"token": "[]", "logprob": None}],
        [{"token": "[]", "logprob": math.nan}],
        [{"token": "[]", "logprob": -math.inf}],
        [{"token": "[]", "logprob": 0.5}],
        [{"token": "\ufffd", "logprob": -0.5}],  # half a character, without its bytes
        [{"token": 3, "logprob": -0.5}],
    ],
)
def test_tokens_that_do_not_spell_the_text_give_no_steps(listed: Any) -> None:
    assert read_steps("[]", listed) == ()


def test_a_servers_lowest_number_is_a_log_probability() -> None:
    assert log_prob_of({"logprob": -3.4e38}) == -3.4e38
    assert log_prob_of({"logprob": 1e-9}) == 0.0


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), st.data())
def test_steps_count_the_characters_that_are_whole(text: str, data: st.DataObject) -> None:
    raw = text.encode()
    cuts = sorted({0, len(raw), *data.draw(st.lists(st.integers(0, len(raw)), max_size=6))})
    steps = read_steps(text, tokens(*((raw[a:b], -1.0) for a, b in itertools.pairwise(cuts))))
    assert [step.end for step in steps] == [len(raw[:cut].decode("utf-8", "ignore")) for cut in cuts[1:]]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("stop"),
    lambda v: st.lists(v, max_size=3)
    | st.dictionaries(
        st.sampled_from(["choices", "message", "content", "finish_reason", "logprobs", "usage", "done", "done_reason", "bytes",
                         "token", "logprob", "top_logprobs", "prompt_tokens", "completion_tokens", "refusal"]), v),
    max_leaves=12,
)  # fmt: skip


@given(JSON, st.sampled_from(["openai", "ollama"]), st.booleans())
def test_whatever_a_server_says_is_read_or_refused(said: Any, dialect: str, is_wrapped: bool) -> None:
    reply = (
        {"choices": [said], "done": True, "message": said, "usage": said, "logprobs": said} if is_wrapped else {"choices": said}
    )
    read_counts(asking(dialect), reply)
    for reads in (read, top_tokens):
        try:
            reads(asking(dialect), reply)
        except ShapeError as error:
            assert str(error)
