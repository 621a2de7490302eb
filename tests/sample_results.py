"""Made-up results of suites, written as an evaluation leaves them, for tests of what is made of them."""

import hashlib
import random
from dataclasses import replace
from pathlib import Path

from whet.evaluate.results import Asked, Latency, PartResult, SuiteResult, System, read_result, write_result
from whet.evaluate.run import score_to_json
from whet.evaluate.statistics import Interval, f1_interval, wilson
from whet.records import Completion, Example, Message, completion_to_json, example_to_json
from whet.storage import canonical, hash_text, write_jsonl
from whet.tasks.choice_qa import LETTERS, ChoiceQa, ChoiceQaSettings
from whet.tasks.free_qa import FreeQa, FreeQaSettings

ASKED = Asked("p" * 64, "t" * 64, 4, "end of turn", constraint="letters")
FREELY = replace(ASKED, constraint="none", max_tokens=64)


def choice_questions(num, categories=("history", "law"), name="q"):
    return [
        Example(f"{name}{at}", f"Question {at} of {name}?", f"{name}.jsonl:{at + 1}", f"{name}{at}", categories[at % len(categories)],
                choices=tuple(f"{word} {at}" for word in ("first", "second", "third", "fourth")), answer=at % 4)
        for at in range(num)
    ]  # fmt: skip


def free_questions(num, name="f"):
    return [
        Example(f"{name}{at}", f"Say {at}", f"{name}.jsonl:{at + 1}", f"{name}{at // 2}",
                messages=(Message("user", f"Say {at}"), Message("assistant", f"it is {at} and more")))
        for at in range(num)
    ]  # fmt: skip


def drawn(seed, example):
    """A number from 0 to 1 that belongs to a seed and a question."""
    return int.from_bytes(hashlib.sha256(f"{seed}{example.id}".encode()).digest()[:6], "big") / 2**48


def choice_part(folder, name, examples, skill, seed, *, role="task", asked=ASKED, errors=(), latency=None):
    """Answers of a system that knows a share `skill` (a number, or one by category) of the questions."""
    task = ChoiceQa(ChoiceQaSettings())
    completions = []
    for example in examples:
        known = skill.get(example.category, 0.0) if isinstance(skill, dict) else skill
        gold, others = task.reply(example), [at for at in LETTERS[: len(example.choices)] if at != task.reply(example)]
        said = (
            gold
            if drawn(f"know{seed // 10}", example) * 0.7 + drawn(seed, example) * 0.3 < known
            else random.Random(seed).choice(others)
        )
        completions.append(Completion("", "error", error="no server") if example.id in errors else Completion(said, "stop", 9, 1))
    return _write_part(folder, name, examples, completions, task, (role, asked, latency))


def free_part(folder, name, examples, share, seed, *, asked=FREELY):
    """Free answers that have about this share of the gold's words."""
    said = [
        " ".join(word for at, word in enumerate(example.messages[-1].content.split()) if drawn(seed + at, example) < share)
        or "no"
        for example in examples
    ]
    completions = [Completion(text, "stop", 9, len(text.split())) for text in said]
    return _write_part(folder, name, examples, completions, FreeQa(FreeQaSettings()), ("task", asked, None), ("token", "f1"))


def _write_part(folder, name, examples, completions, task, said, headline=None):
    role, asked, latency = said
    scores = [task.score(example, completion) for example, completion in zip(examples, completions, strict=True)]
    rows = [
        {"id": example.id, "source": example.source, **completion_to_json(completion), "score": score_to_json(score)}
        for example, completion, score in zip(examples, completions, scores, strict=True)
    ]
    write_jsonl(folder / name / "answers.jsonl", rows)
    write_jsonl(folder / name / "questions.jsonl", map(example_to_json, examples))
    total = task.total(scores)
    measure, figure = headline or total.headline
    if figure == "accuracy":
        interval = wilson(int(total.measures[measure]["right"]), int(total.measures[measure]["num"]))
    else:
        interval = f1_interval([score.counts[measure] for score in scores], num_resamples=499)
    return PartResult(
        name, role, task.name, (measure, figure), hash_text(canonical([[e.id, task.reply(e)] for e in examples])), asked,
        total.num_asked, total.num_scored, len(examples), total.measures[measure][figure], interval, total.measures, total.rates,
        latency or Latency(0.1, 0.2, 0.3, 5.0, 0.12 * len(examples)),
        categories={c: (1, 0.5, Interval(0.0, 1.0)) for c in {e.category for e in examples}},
    )  # fmt: skip


def write_suite(folder: Path, label, parts, kind="base", **more) -> SuiteResult:
    result = SuiteResult(
        folder, "sample", "f", System(kind, label, {"base": "embedded"}, more.pop("num_bytes", 13_400_000)),
        {part.name: part for part in parts}, more.pop("memory", 123_000_000), more.pop("cost", None), {"date": "2026-11-20"},
    )  # fmt: skip
    write_result(result)
    return read_result(folder)
