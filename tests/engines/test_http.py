"""The engine over a server: what comes back for a stream of requests, whatever the server does."""

import gc
import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fake_server import FakeServer, Reply, Seen, chat, tokens
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.config import load
from whet.engines.dialects import Said
from whet.engines.http import HttpEngine, HttpSettings, unwrap
from whet.errors import InputError, SettingsError
from whet.records import Completion, Constraint, FieldRule, Message, Request, Step

CONSTRAINT = Constraint((FieldRule("name", "span"), FieldRule("event", "choice", ("Death", "Other"), True)), "少師蹇義卒。")
RIGHT = '[{"name":"蹇義","event":"Death"}]'
OPENAI = {"dialect": "openai", "model": "m"}


def engine(server: FakeServer, **more: Any) -> HttpEngine:
    return HttpEngine(HttpSettings(url=server.url, **({"backoff_s": 0.002, "timeout_s": 5.0} | OPENAI | more)))


def request(text: str, constraint: Constraint | None = None, **more: Any) -> Request:
    return Request((Message("user", text),), 32, constraint=constraint, **more)


def models(*owners: str) -> dict[str, Any]:
    return {"object": "list", "data": [{"id": f"model-{number}", "owned_by": owner} for number, owner in enumerate(owners)]}


def test_answers_keep_the_order_of_requests_and_come_as_they_get_ready() -> None:
    last_is_asked = threading.Event()

    def reply(seen: Seen) -> Any:
        if seen.text == "d":
            last_is_asked.set()
        if seen.text == "a":
            last_is_asked.wait(5)
        return chat(seen.text.upper())

    with FakeServer(reply) as server:
        asked = [request(text) for text in "abcd"]
        to = engine(server, concurrency=2)
        assert [number for number, _ in to.answer_each(asked)][:2] == [1, 2]
        said = to.answer(asked)
    assert said == [Completion(text, "stop", 7, 3) for text in "ABCD"]
    assert server.most_open == 2
    assert (to.usage.requests, to.usage.prompt_tokens, to.usage.completion_tokens) == (8, 56, 24)


def test_requests_are_taken_as_there_is_room_for_them() -> None:
    num_taken = 0

    def stream() -> Iterator[Request]:
        nonlocal num_taken
        for number in itertools.count():
            num_taken += 1
            yield request(str(number))

    with FakeServer(lambda seen: chat("[]")) as server:
        said = engine(server, concurrency=3).answer_each(stream())
        for num_given in range(1, 30):
            next(said)
            assert num_taken <= num_given + 3
        assert 0 < server.most_open <= 3
        said.close()


def test_slow_requests_do_not_hold_back_what_is_ready() -> None:
    """Where requests come slowly, an answer is given before the room is filled."""
    num_taken = 0

    def stream() -> Iterator[Request]:
        nonlocal num_taken
        for number in range(4):
            num_taken += 1
            yield request(str(number))
            while to.usage.completion_tokens == 0:
                time.sleep(0.01)
            time.sleep(0.05)  # until the answer is ready

    with FakeServer(lambda seen: chat("[]")) as server:
        to = engine(server, concurrency=4)
        said = to.answer_each(stream())
        next(said)
        assert num_taken <= 3
        assert len(list(said)) == 3


def test_a_failure_is_a_completion_and_loses_no_other() -> None:
    def reply(seen: Seen) -> Any:
        return {
            "bad": Reply({"error": {"message": "too long"}}, 400),
            "busy": Reply(b"", 503),
            "html": Reply(b"<html>"),
            "shape": {"usage": {"prompt_tokens": 5, "completion_tokens": 1}},
            "torn": Reply(chat("x" * 500), num_sent=99),
        }.get(seen.text, chat("[]"))

    with FakeServer(reply) as server:
        to = engine(server, retries=1)
        said = to.answer([request(text) for text in ("a", "bad", "busy", "html", "shape", "torn", "a\ud800", "b")])
    assert [completion.finish for completion in said] == ["stop", *["error"] * 6, "stop"]
    assert all(completion.text == "" for completion in said[1:-1])
    words = [completion.error for completion in said]
    assert words[1] == "status 400: too long"
    assert words[2] == "status 503: (nothing) (tried 2 times)"
    assert "is no JSON" in words[3]
    assert words[4] == "the reply can't be used: it has no choices"
    assert "tried 2 times" in words[5]
    assert "surrogate" in words[6]
    assert to.usage.failed == 6
    assert (said[4].num_prompt_tokens, to.usage.prompt_tokens) == (5, 7 + 5 + 7)  # it was paid for


def test_a_fault_of_our_own_loses_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(asking: Any, reply: Any) -> Said:
        raise RecursionError("too deep")

    with FakeServer(lambda seen: chat("[]")) as server:
        to = engine(server)
        assert to.answer([request("a")])[0].text == "[]"
        monkeypatch.setattr("whet.engines.http.read", odd)
        assert [completion.error for completion in to.answer([request("a"), request("b")])] == ["RecursionError: too deep"] * 2


def test_a_cut_reply_is_no_error_and_no_whole_one() -> None:
    with FakeServer(lambda seen: chat(RIGHT[:9], "length")) as server:
        (said,) = engine(server).answer([request("a", CONSTRAINT)])
    assert (said.text, said.finish, said.cut_at) == (RIGHT[:9], "length", None)
    assert said.violation.startswith("json: not JSON")


@pytest.mark.parametrize(
    ("text", "violation"),
    [
        (RIGHT, ""),
        (json.dumps(json.loads(RIGHT), indent=1), ""),
        (f"```json\n{RIGHT}\n```", "fence: the reply is wrapped in a code fence"),
        (RIGHT.replace("蹇義", "蹇义"), "ungrounded: name of entry 1 is '蹇义', which does not stand in the text"),
        ("", "json: not JSON (Expecting value: line 1 column 1 (char 0))"),
    ],
)
def test_what_the_server_does_not_keep_is_said_and_left_as_it_is(text: str, violation: str) -> None:
    with FakeServer(lambda seen: chat(text)) as server:
        said = engine(server).answer([request("a", CONSTRAINT), request("a")])
    assert [completion.text for completion in said] == [text, text]
    assert [completion.violation for completion in said] == [violation, ""]


def test_a_server_that_refuses_the_schema_is_told_apart() -> None:
    with FakeServer(lambda seen: Reply({"error": "response_format is not supported"}, 400)) as server:
        (said, plain) = engine(server).answer([request("a", CONSTRAINT), request("a")])
    assert "It was asked for engine.enforce=schema; take json_object, object, or none" in said.error
    assert "enforce" not in plain.error


def test_the_list_is_taken_out_of_an_object_that_was_asked_for() -> None:
    text = f'{{ "records" : {RIGHT} }}'
    with FakeServer(lambda seen: chat(text, logprobs={"content": tokens((text.encode(), -0.5))})) as server:
        (said,) = engine(server, enforce="object").answer([request("a", CONSTRAINT)])
    assert (said.text, said.violation, said.steps) == (RIGHT, "", (Step(len(RIGHT), -0.5),))


@pytest.mark.parametrize("text", ["[]", '{"records":{}}', '{"other":[]}', '{"records":[1],"records":[2]}', '{"records":[],"x":1}', "{", "```{}```",
                                  '{"records":' + "[" * 5000 + "]" * 5000 + "}", '{"x":"\\"records\\"[]","records":[1]}'])  # fmt: skip
def test_anything_else_stays_as_it_was_written(text: str) -> None:
    said = Said(text, "stop", (Step(1, -0.1),))
    assert unwrap(said) == said


@given(st.lists(st.dictionaries(st.text(), st.text())), st.text(" \n\t"), st.integers(1, 5))
def test_a_list_that_is_taken_out_keeps_its_characters_and_steps(rows: Any, space: str, size: int) -> None:
    inner = json.dumps(rows, ensure_ascii=False)
    text = f'{space}{{"records":{space}{inner}{space}}}{space}'
    steps = tuple(Step(at, -float(at)) for at in range(size, len(text) + size, size))
    said = unwrap(Said(text, "stop", steps))
    assert said.text == inner
    start = text.index(inner)
    assert [step.log_prob for step in said.steps] == [step.log_prob for step in steps if step.end > start]
    assert all(0 < step.end <= len(inner) for step in said.steps)


@pytest.mark.parametrize(
    ("owner", "version", "dialect", "enforce", "path"),
    [
        ("vllm", None, "vllm", "schema", "/v1/chat/completions"),
        ("llamacpp", None, "llama.cpp", "gbnf", "/v1/chat/completions"),
        ("library", {"version": "0.13.0"}, "ollama", "schema", "/api/chat"),
        ("me", None, "openai", "schema", "/v1/chat/completions"),
    ],
)
def test_a_server_is_asked_which_one_it_is(owner: str, version: Any, dialect: str, enforce: str, path: str) -> None:
    def reply(seen: Seen) -> Any:
        if seen.path == "/v1/models":
            return models(owner)
        if seen.path == "/api/version":
            return version or Reply(b"", 404)
        return {"done": True, "done_reason": "stop", "message": {"content": "[]"}} if dialect == "ollama" else chat("[]")

    with FakeServer(reply) as server:
        to = engine(server, dialect="auto", model=None)
        assert [completion.text for completion in to.answer([request("a"), request("b")])] == ["[]", "[]"]
    assert (to.asking.dialect, to.asking.enforce, to.asking.model) == (dialect, enforce, "model-0")
    assert server.paths().count("/v1/models") == 1
    assert server.paths()[-1] == path
    assert to.asking.has_logprobs == (dialect != "openai")
    assert server.seen[-1].body["model"] == "model-0"


def test_what_is_said_is_not_asked() -> None:
    with FakeServer(lambda seen: chat("[]")) as server:
        engine(server).answer([request("a")])
        assert engine(server).answer([]) == []
    assert server.paths() == ["/v1/chat/completions"]


def test_a_server_without_a_list_of_models_needs_a_name() -> None:
    with FakeServer(lambda seen: Reply(b"", 404) if "models" in seen.path else chat("[]")) as server:
        with pytest.raises(InputError, match=r"engine\.model: is not said"):
            engine(server, dialect="auto", model=None).answer([request("a")])
        assert engine(server, dialect="auto").answer([request("a")])[0].text == "[]"


def test_of_several_models_one_must_be_named() -> None:
    with FakeServer(lambda seen: models("vllm", "vllm")) as server, pytest.raises(InputError, match="has model-0, model-1"):
        engine(server, dialect="vllm", model=None).answer([request("a")])


@pytest.mark.parametrize(("status", "words"), [(401, "status 401: who are you"), (500, "status 500: who are you")])
def test_a_server_that_can_not_be_asked_at_all_is_an_error_before_the_first_request(status: int, words: str) -> None:
    with FakeServer(lambda seen: Reply(b"who are you", status)) as server, pytest.raises(InputError, match=words):
        engine(server, dialect="auto", retries=1).answer([request("a")])


def test_what_a_server_turns_out_not_to_take_is_refused() -> None:
    with FakeServer(lambda seen: models("me") if "models" in seen.path else Reply(b"", 404)) as server:
        for more, words in (({"enforce": "gbnf"}, r"engine\.enforce"), ({"context_length": 8}, r"engine\.context_length")):
            with pytest.raises(InputError, match=words):
                engine(server, dialect="auto", **more).answer([request("a")])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"dialect": "ollama", "enforce": "gbnf"}, "ollama can't be asked for gbnf; it takes none, schema"),
        ({"dialect": "vllm", "context_length": 8}, "Ollama's alone"),
        ({"extra": {"messages": []}}, "extra must not hold messages"),
        ({"leave_out": ["model"]}, "leave_out must not name model"),
        ({"concurrency": 0}, "concurrency"),
        ({"dialect": "gpt"}, "dialect"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(more: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        load(HttpSettings, {"url": "http://a", **more}, {}, "test")


def test_prices_and_limits_make_no_other_answers() -> None:
    one = HttpSettings(url="http://a", model="m")
    other = HttpSettings(url="http://a", model="m", prompt_price=3.0, concurrency=2, retries=0, api_key_env="K")
    assert one.identity() == other.identity()
    assert one.identity() != HttpSettings(url="http://a", model="m", temperature=1.0).identity()


def test_adapters_are_named_where_a_server_knows_them() -> None:
    asked = request("a", adapter="officials")
    with FakeServer(lambda seen: chat("[]")) as server:
        assert engine(server, dialect="vllm").answer([asked])[0].text == "[]"
        (said,) = engine(server, dialect="llama.cpp").answer([asked])
    assert server.seen[0].body["model"] == "officials"
    assert "can't be asked for an adapter" in said.error
    assert len(server.seen) == 1


def test_log_probabilities_become_steps() -> None:
    listed = tokens((RIGHT[:10].encode(), -0.25), (RIGHT[10:].encode(), -1.0))
    with FakeServer(lambda seen: chat(RIGHT, logprobs={"content": listed})) as server:
        (said,) = engine(server, logprobs=True).answer([request("a", CONSTRAINT)])
    assert said.steps == (Step(10, -0.25), Step(len(RIGHT), -1.0))
    assert server.seen[0].body["logprobs"] is True


def test_ctrl_c_ends_what_is_in_flight() -> None:
    with FakeServer(lambda seen: Reply(chat("[]"), delay_s=0.0 if seen.text == "0" else 4.0)) as server:
        to = engine(server, concurrency=3)
        said = to.answer_each([request(str(number)) for number in range(50)])
        assert next(said)[0] == 0
        threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGINT]).start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            list(said)
        assert time.monotonic() - began < 3.0
        assert len(server.seen) == 4
        # The engine lives on.
        assert to.answer([request("0")])[0].text == "[]"


def test_who_stops_reading_stops_the_requests() -> None:
    with FakeServer(lambda seen: Reply(chat("[]"), delay_s=0.02)) as server:
        to = engine(server, concurrency=2)
        for _ in to.answer_each(request(str(number)) for number in itertools.count()):
            break
        num_seen = len(server.seen)
        time.sleep(0.1)
        assert len(server.seen) <= num_seen + 2
        to.close()
        to.close()


def test_requests_that_can_not_be_made_are_the_callers_fault() -> None:
    def stream() -> Iterator[Request]:
        yield request("a")
        raise OSError("the disk is gone")

    with FakeServer(lambda seen: Reply(chat("[]"), delay_s=0.1)) as server, pytest.raises(OSError, match="disk"):
        list(engine(server).answer_each(stream()))


def test_an_engine_that_nobody_holds_leaves_no_thread() -> None:
    with FakeServer(lambda seen: chat("[]")) as server:
        to = engine(server)
        to.answer([request("a")])
        before = threading.active_count()
        del to
        gc.collect()
        assert threading.active_count() < before


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), lambda v: st.lists(v, max_size=3)
                    | st.dictionaries(st.sampled_from(["message", "content", "finish_reason", "logprobs", "bytes", "token"]), v), max_leaves=8)  # fmt: skip


@given(st.lists(st.tuples(JSON, st.sampled_from([200, 200, 400, 503])), min_size=1, max_size=4))
@settings(max_examples=25)
def test_whatever_a_server_does_each_request_has_one_completion(said: list[tuple[Any, int]]) -> None:
    with FakeServer(lambda seen: Reply({"choices": [said[int(seen.text)][0]]}, said[int(seen.text)][1])) as server:
        to = engine(server, retries=0)
        found = to.answer([request(str(number), CONSTRAINT) for number in range(len(said))])
        to.close()
    assert len(found) == len(said)
    assert all((completion.finish == "error") == bool(completion.error) for completion in found)
