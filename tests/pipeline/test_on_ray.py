"""Answers from Ray actors: the same as without, each once, whatever process dies on the way."""

import ast
import importlib.util
import os
import signal
import sys
import threading
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import pytest
import ray_at_work
from ray_at_work import OpensRuled, actors, ask, feeds, readers, wait_for

import whet.errors
from whet.errors import InputError, MissingExtraError
from whet.pipeline.on_ray import (
    OnRay,
    RaySettings,
    answer_all,
    answer_on_ray,
    open_answer,
    pack_requests,
    unpack_completions,
)
from whet.records import Completion, Constraint, FieldRule, Message, Request, Step

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'whet[ray]'")
needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes by /proc")
REQUEST = Request(
    (Message("system", "\ud83d alone, 程富\u2028"), Message("user", "𠀋😀\x00")),
    64,
    constraint=Constraint((FieldRule("office", "choice", ("a", "b"), is_nullable=True, max_chars=3),), "source 𪚥"),
    temperature=0.1,
    seed=7,
)


def test_a_request_and_a_completion_come_through_as_they_are(tmp_path):
    made = Completion("[{\ud83d𠀋", "length", 3, 4, "", (Step(2, -0.1234567890123), Step(9, 0.0)), 5, "why")

    class Exact:
        def open(self):
            return self

        def answer_each(self, requests):
            assert requests == [REQUEST]
            yield 0, made

    assert unpack_completions(open_answer(Exact())(pack_requests([("c0ffee", REQUEST)]))) == [("c0ffee", made)]


def test_an_engine_that_breaks_down_answers_with_errors_and_keeps_what_it_said(tmp_path):
    engine = ray_at_work.Ruled(tmp_path, 0.0)
    said = answer_all(engine, [(word, ask(word)) for word in ("ab", "silence", "cd")])
    assert [(id_, found.text, found.finish) for id_, found in said] == [
        ("ab", "ba", "stop"),
        ("silence", "", "error"),
        ("cd", "dc", "stop"),
    ]
    assert said[1][1].error == "the engine gave no answer"
    said = answer_all(engine, [(word, ask(word)) for word in ("ab", "break", "cd")])
    assert [found.error for _, found in said] == ["", "RuntimeError: out of order", "RuntimeError: out of order"]


def test_an_actor_that_can_not_open_the_engine_says_why():
    with pytest.raises(InputError, match="an actor can't open the engine: /runs/a: no such run"):
        unpack_completions('{"fault": "/runs/a: no such run"}')


@pytest.mark.integration
def test_ray_is_imported_in_its_own_files_only():
    root = Path(whet.errors.__file__).parent
    found = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.partition(".")[0] == "ray" for name in names):
                found.add(path.name)
    assert found == {"on_ray.py", "ray_feed.py"}


def test_without_ray_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'whet\[ray\]'"):
        next(answer_on_ray([("a", ask("a"))], OpensRuled(""), RaySettings()))


def test_where_nothing_is_asked_ray_is_not_started(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert list(answer_on_ray([], OpensRuled(""), RaySettings())) == []


@pytest.fixture(scope="module")
def ray_here():
    """Ray on this machine, for all tests of this file: it takes seconds to start."""
    paths = os.pathsep.join(filter(None, [str(Path(ray_at_work.__file__).parent), os.environ.get("PYTHONPATH")]))
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal", "PYTHONPATH": paths}
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # as whet has it: read once, when Ray is imported
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'whet[ray]'")
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        object_store_memory=100 * 2**20,
    )
    yield ray
    ray.shutdown()


pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}:ray") for kind in ("DeprecationWarning", "UserWarning")]


def asked(notes: Path) -> Counter:
    """How often each request was begun, whatever the process."""
    return Counter(line for path in notes.iterdir() for line in path.read_text().splitlines())


def words_of(num: int) -> list[str]:
    return [f"{number:03d}程𠀋" for number in range(num)]


@pytest.mark.end_to_end
@needs_ray
class TestOnRay:
    def test_every_request_is_answered_once_by_two_processes(self, ray_here, tmp_path):
        words = words_of(50)
        engine = OnRay("ruled", OpensRuled(str(tmp_path)), RaySettings(batch=4))
        found = list(engine.answer_each(ask(word) for word in words))
        assert sorted(found) == [(number, Completion(word[::-1], "stop", num_tokens=5)) for number, word in enumerate(words)]
        assert set(asked(tmp_path).values()) == {1}
        assert len(list(tmp_path.iterdir())) == 2

    def test_no_more_is_drawn_than_the_actors_can_have_on_hand(self, ray_here, tmp_path):
        drawn = []

        def draw():
            for word in words_of(200):
                drawn.append(word)
                yield word, ask(word)

        answers = answer_on_ray(draw(), OpensRuled(str(tmp_path)), RaySettings(num_actors=1, batch=4))
        for num_answered in range(1, 40):
            next(answers)
            assert len(drawn) <= num_answered + 4 * 4
        answers.close()

    @needs_proc
    def test_a_killed_actor_s_requests_are_answered_again_and_none_twice(self, ray_here, tmp_path):
        words = words_of(60)
        answers = answer_on_ray(((word, ask(word)) for word in words), OpensRuled(str(tmp_path), 0.1), RaySettings(batch=5))
        found = [next(answers) for _ in range(5)]
        victim = next(pid for pid in wait_for(actors) if (tmp_path / str(pid)).exists())
        os.kill(victim, signal.SIGKILL)
        found += answers
        assert sorted(found) == [(word, Completion(word[::-1], "stop", num_tokens=5)) for word in words]
        assert max(asked(tmp_path).values()) == 2  # what the killed one was at was begun anew
        assert len(list(tmp_path.iterdir())) == 3  # a third process took its place

    @needs_proc
    def test_a_killed_reader_of_the_feed_loses_nothing(self, ray_here, tmp_path):
        words = words_of(60)
        answers = answer_on_ray(((word, ask(word)) for word in words), OpensRuled(str(tmp_path), 0.1), RaySettings(batch=5))
        found = [next(answers) for _ in range(10)]
        os.kill(wait_for(readers)[0], signal.SIGKILL)
        found += answers
        assert sorted(found) == [(word, Completion(word[::-1], "stop", num_tokens=5)) for word in words]

    @needs_proc
    def test_a_killed_feed_ends_it_in_a_line(self, ray_here, tmp_path):
        answers = answer_on_ray(((w, ask(w)) for w in words_of(200)), OpensRuled(str(tmp_path)), RaySettings(num_actors=1))
        next(answers)
        os.kill(wait_for(feeds)[0], signal.SIGKILL)
        with pytest.raises(InputError, match="What was finished is kept"):
            list(answers)

    @needs_proc
    @pytest.mark.parametrize("fault", ["", "die", "no such run"])
    def test_one_that_is_left_or_fails_leaves_no_thread_and_no_actor(self, ray_here, tmp_path, fault):
        answers = answer_on_ray(((w, ask(w)) for w in words_of(200)), OpensRuled(str(tmp_path), 0.05, fault), RaySettings())
        with nullcontext() if not fault else pytest.raises(InputError):
            next(answers)
        answers.close()
        assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("whet-ray", "StreamingExecutor"))]
        wait_for(lambda: [1] * (not actors() and not feeds()))

    def test_a_request_that_kills_its_actors_is_an_error_and_takes_no_other_with_it(self, ray_here, tmp_path):
        words = [*words_of(7), "poison", *words_of(12)[7:]]
        answers = answer_on_ray(((w, ask(w)) for w in words), OpensRuled(str(tmp_path)), RaySettings(num_actors=1, batch=5))
        found = dict(answers)
        assert found.pop("poison") == Completion("", "error", error="3 actors died over it")
        assert found == {word: Completion(word[::-1], "stop", num_tokens=5) for word in words if word != "poison"}
        assert asked(tmp_path)["'poison'"] == 3

    def test_actors_that_die_while_they_open_the_engine_end_it_in_a_line(self, ray_here, tmp_path):
        answers = answer_on_ray([("a", ask("a"))], OpensRuled(str(tmp_path), fault="die"), RaySettings(num_actors=1))
        with pytest.raises(InputError, match="an actor can't open the engine: actor after actor died in doing so"):
            list(answers)

    def test_an_engine_that_no_actor_can_open_ends_it_in_a_line(self, ray_here, tmp_path):
        answers = answer_on_ray([("a", ask("a"))], OpensRuled(str(tmp_path), fault="no such run"), RaySettings())
        with pytest.raises(InputError, match="an actor can't open the engine: /runs/a: no such run"):
            list(answers)

    def test_actors_that_find_no_room_are_refused_at_once(self, ray_here, tmp_path):
        with pytest.raises(InputError, match=r"3 actors need 3 CPUs, there are 2\. Set ray\.num_actors or ray\.cpus lower"):
            list(answer_on_ray([("a", ask("a"))], OpensRuled(str(tmp_path)), RaySettings(num_actors=3)))
        with pytest.raises(InputError, match="need 2 GPUs, there are 0"):
            list(answer_on_ray([("a", ask("a"))], OpensRuled(str(tmp_path)), RaySettings(gpus=1)))
