"""The scripted engine: the double answers, fails and ranks as a real one may."""

from whet.engines.scripted import ScriptedEngine
from whet.records import Completion, Message, Request, Step


def request(text: str, choices: tuple[str, ...] = ()) -> Request:
    return Request((Message("user", text),), 8, choices)


def test_a_script_that_raises_gives_an_error_and_loses_no_other_answer() -> None:
    def reply(asked: Request) -> str:
        if asked.messages[-1].content == "bad":
            raise ConnectionError("down")
        return asked.messages[-1].content.upper()

    said = ScriptedEngine("x", reply).answer([request("a"), request("bad"), request("b")])
    assert [(completion.text, completion.finish) for completion in said] == [("A", "stop"), ("", "error"), ("B", "stop")]
    assert said[1].error == "ConnectionError: down"


def test_ranking_puts_what_the_script_says_first() -> None:
    ranks = ScriptedEngine("x", lambda _: "B").rank(request("a", ("A", "B", "C")))
    assert ranks.index(max(ranks)) == 1
    assert ScriptedEngine("x", lambda _: "?").rank(request("a", ("A", "B"))) == [-1.0, -1.0]


def test_a_script_may_give_a_whole_completion_and_answers_come_with_their_numbers() -> None:
    said = Completion("B", "length", steps=(Step(1, -0.5),), cut_at=1)

    def reply(asked: Request) -> str | Completion:
        if asked.messages[-1].content == "bad":
            raise ConnectionError("down")
        return said

    engine = ScriptedEngine("x", reply)
    found = dict(engine.answer_each(iter([request("a"), request("bad"), request("b")])))
    assert found == {0: said, 1: Completion("", "error", error="ConnectionError: down"), 2: said}
    assert [found[number] for number in range(3)] == engine.answer([request("a"), request("bad"), request("b")])
    assert engine.rank(request("a", ("A", "B"))) == [-1.0, 0.0]
