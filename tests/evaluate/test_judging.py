"""A part's figures are those of counting by hand, and its intervals those of the statistics, over groups."""

from collections.abc import Sequence

import pytest

from whet.evaluate.judging import Doubt, PartAnswered, describe_asking, judge_part
from whet.evaluate.questions import Found, Questions
from whet.evaluate.results import Latency
from whet.evaluate.statistics import score_intervals, wilson
from whet.records import Completion, Counts, Example, Span, Value
from whet.tasks.base import Task
from whet.tasks.choice_qa import ChoiceQa, ChoiceQaSettings

DOUBT = Doubt(0.95, 0, 999)
NAMES = ["王安", "李白", "杜甫", "蘇軾"]


def judged(task: Task, examples: Sequence[Example], said: Sequence[Completion], found: Found | None = None):
    scores = [task.score(example, completion) for example, completion in zip(examples, said, strict=True)]
    asked = describe_asking(task, examples, template=None, stop="")
    return scores, judge_part(
        PartAnswered("p", "task", task, Questions(tuple(examples)), asked, scores, Latency(None, None, None, None), 0.05, found),
        DOUBT,
    )


def annal(number: int) -> Example:
    name = NAMES[number % 4]
    records = ({"name": Value(name, Span(0, 2)), "office": None, "event": Value("Death")},) if number % 3 else ()
    return Example(f"e{number}", f"{name}卒。", "f:1", f"g{number // 3}", "odd" if number % 2 else "even", records=records)


def test_extraction_is_scored_as_by_hand_and_resampled_by_group(officials) -> None:
    examples = [annal(number) for number in range(60)]
    said = [
        Completion("[]" if number % 5 == 0 else f'[{{"name":"{NAMES[number % 4]}","office":null,"event":"Death"}}]', "stop")
        for number in range(60)
    ]
    scores, part = judged(officials, examples, said, Found(("e1",), ("e2",)))
    gold = {(e.id, r["name"].text) for e in examples for r in e.records}
    answered = {(e.id, NAMES[n % 4]) for n, e in enumerate(examples) if n % 5}
    tp = len(gold & answered)
    assert part.value == pytest.approx(2 * tp / (len(gold) + len(answered)))
    counts = [Counts(*(len(x) for x in (g & a, a - g, g - a))) for e in examples
              for g, a in [({p for p in gold if p[0] == e.id}, {p for p in answered if p[0] == e.id})]]  # fmt: skip
    assert part.interval == score_intervals(counts, seed=0, num_resamples=999, groups=[e.group for e in examples]).f1
    assert part.interval != score_intervals(counts, seed=0, num_resamples=999).f1
    rest = officials.total([score for score in scores if score.example_id not in ("e1", "e2")])
    assert part.overlap.without == rest.measures["record"]["f1"]
    assert {name: num for name, (num, _, _) in part.categories.items()} == {"even": 30, "odd": 30}
    assert part.asked.constraint == "grounded records"
    assert {"record.precision", "record.recall", "name.f1", "rate.unread"} <= part.extra["intervals"].keys()


def test_accuracy_is_counted_by_hand_and_constants_are_seen_through() -> None:
    task = ChoiceQa(ChoiceQaSettings())
    examples = [Example(f"e{n}", f"What is {n}?", "f:1", f"g{n}", choices=("w", "x", "y", "z"), answer=n % 4) for n in range(80)]
    _, part = judged(task, examples, [Completion("A", "stop")] * 80)
    golds = [task.reply(example) for example in examples]
    assert part.value == golds.count("A") / 80
    assert part.interval == wilson(golds.count("A"), 80)
    assert part.extra["letters"] == {"A": 1.0}
    assert part.extra["best_constant"]["accuracy"] == max(golds.count(letter) for letter in "ABCD") / 80
    assert {letter: found["right"] for letter, found in part.extra["by_position"].items()} == {
        letter: golds.count("A") if letter == "A" else 0 for letter in "ABCD"
    }
    assert part.asked.constraint == "letters ranked by likelihood"


def test_nothing_read_is_no_score() -> None:
    task = ChoiceQa(ChoiceQaSettings())
    examples = [Example("e", "What?", "f:1", "g", choices=("w", "x"), answer=0)]
    _, part = judged(task, examples, [Completion("perhaps", "stop")], Found((), ()))
    assert (part.value, part.interval, part.rates["unread"], part.overlap.without) == (None, None, 1.0, None)
