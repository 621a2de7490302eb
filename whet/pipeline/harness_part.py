"""What lm-evaluation-harness logged of its tasks, as a part of a suite's result: answers, figures, questions met in training."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from whet.data.rows import digest
from whet.data.split import SplitSettings
from whet.evaluate.questions import find_overlap, key_of
from whet.evaluate.results import Asked, Latency, Overlap, PartResult
from whet.evaluate.run import score_to_json
from whet.evaluate.shares import share_interval
from whet.evaluate.statistics import Interval, count_groups
from whet.records import Completion, Example, Message, Score, completion_to_json
from whet.storage import canonical, hash_text

NAME = "harness"
METRICS = ("acc", "exact_match")
"""Figures of lm-eval that are 1 or 0 for each question; the first that a task has is the headline."""


@dataclass
class Kept:
    """What went through our engine, by the harness's own strings."""

    errors: dict[str, str] = field(default_factory=dict)
    """By the context that could not be answered."""
    seconds: float = 0.0
    max_tokens: int = 0


def read_messages(context: str) -> tuple[Message, ...]:
    """The messages of which the harness was given the JSON as its prompt."""
    return tuple(Message(role, content) for role, content in json.loads(context))


class HarnessPart:
    """One name's questions and answers, as the harness logged them."""

    def __init__(self, name: str, said: Any, tasks: Mapping[str, Any], kept: Kept) -> None:
        self.name, self._kept = name, kept
        leaves = sorted(tasks)
        self.results = {
            leaf: {key: value for key, value in said["results"][leaf].items() if isinstance(value, int | float | str)}
            for leaf in leaves
        }
        self.examples: list[Example] = []
        self.scores: list[Score] = []
        self.completions: list[Completion] = []
        self.contexts: list[str] = []
        self._docs: list[Mapping[str, Any]] = []
        for leaf in leaves:
            task = tasks[leaf]
            metric = next(metric for metric in METRICS if metric in task._metric_fn_list)
            first = said["samples"][leaf][0]["filter"] if said["samples"][leaf] else ""
            for sample in said["samples"][leaf]:
                if sample["filter"] == first:  # a task may be scored through several filters; the first is its headline
                    self._take(leaf if len(leaves) > 1 else "", leaf, sample, metric, task.OUTPUT_TYPE)

    def _take(self, category: str, leaf: str, sample: Mapping[str, Any], metric: str, kind: str) -> None:
        contexts = [str(pair[0]) for pair in sample["arguments"]]
        id_, place = f"{leaf}:{sample['doc_id']}", f"{leaf}:{int(sample['doc_id']) + 1}"
        turns, choices = read_messages(contexts[0]), tuple[str, ...]()
        if kind == "multiple_choice":
            choices = tuple(str(pair[1]) for pair in sample["arguments"])
            target = sample["target"]
            answer = target if isinstance(target, int) else choices.index(str(target)) if str(target) in choices else None
            ranks = [float(resp[0][0] if isinstance(resp[0], list | tuple) else resp[0]) for resp in sample["resps"]]
            text = choices[max(range(len(ranks)), key=ranks.__getitem__)]
            gold: dict[str, Any] = {"choices": choices, "answer": answer}
        else:
            text = str(sample["resps"][0][0])
            gold = {"messages": (*turns, Message("assistant", str(sample["target"])))}
        # Questions that are the same belong together, whatever examples are shown before them.
        group = digest(key_of(Example("", turns[-1].content, "", "", choices=choices)))
        example = Example(id_, turns[-1].content, place, group, category, **gold)
        error = next((self._kept.errors[context] for context in contexts if context in self._kept.errors), None)
        if error is not None:
            self.completions.append(Completion("", "error", error=error))
            score = Score(id_, "error", category=category, flags={"error": 1}, detail={"error": error})
        else:
            self.completions.append(Completion(text, "stop"))
            score = Score(id_, "read", right=bool(sample[metric]), category=category, detail={"text": text})
        self.examples.append(example)
        self.scores.append(score)
        self.contexts += contexts[:1]
        self._docs.append(sample["doc"])

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of answers.jsonl."""
        for example, completion, score in zip(self.examples, self.completions, self.scores, strict=True):
            place = {"id": example.id, "source": example.source, "group": example.group}
            yield {**place, **completion_to_json(completion), "score": score_to_json(score)}

    def overlap(self, training: Sequence[Example], confidence: float) -> Overlap:
        """The questions that stand in training data, exactly or nearly, and the accuracy without them.

        A data set's row does not say which of its texts is the question: each is compared, alone and with the row's choices,
        and so is the prompt as the harness wrote it.
        """
        variants = [
            replace(variant, id=f"{at}:{number}")
            for at, (example, doc) in enumerate(zip(self.examples, self._docs, strict=True))
            for number, variant in enumerate(_variants(example, doc))
        ]
        found = find_overlap(variants, training, SplitSettings())
        exact = {int(id_.partition(":")[0]) for id_ in found.exact}
        near = {int(id_.partition(":")[0]) for id_ in found.near} - exact
        met = [self.examples[at].id for at in (*sorted(exact), *sorted(near))]
        rest = [at for at, score in enumerate(self.scores) if score.status == "read" and at not in exact | near]
        without = sum(bool(self.scores[at].right) for at in rest) / len(rest) if rest else None
        around = self._interval(rest, confidence) if rest else None
        return Overlap(len(exact), len(near), tuple(met), without, around)

    def _interval(self, places: Sequence[int], confidence: float) -> Interval:
        rights = [bool(self.scores[at].right) for at in places]
        return share_interval(rights, confidence, [self.examples[at].group for at in places])

    def result(
        self, max_error_rate: float, confidence: float, template: str | None, stop: str, overlap: Overlap | None
    ) -> PartResult:
        """The part's result. What the harness itself says of its tasks stands in `extra`, errors scored as it scores them."""
        read = [at for at, score in enumerate(self.scores) if score.status == "read"]
        num, num_right = len(self.scores), sum(bool(self.scores[at].right) for at in read)
        error_rate = (num - len(read)) / num if num else 0.0
        is_scored = bool(read) and error_rate <= max_error_rate
        by_category, same = defaultdict[str, list[int]](list), defaultdict[str, list[str]](list)
        for at in read:
            by_category[self.scores[at].category].append(at)
        for example in self.examples:
            same[example.group].append(example.id)
        is_ranked = all(example.choices for example in self.examples)
        asked = Asked(
            hash_text(canonical(self.contexts)), template, 0 if is_ranked else self._kept.max_tokens,
            "nothing is written" if is_ranked else f"{stop}, or what the task says",
            constraint="choices ranked by likelihood" if is_ranked else "none",
        )  # fmt: skip
        golds = [
            [example.id, example.answer, [message.content for message in example.messages[-1:]]] for example in self.examples
        ]
        return PartResult(
            self.name, "task", NAME, ("accuracy", "accuracy"), hash_text(canonical(golds)), asked, num, len(read),
            len(same), num_right / len(read) if is_scored else None, self._interval(read, confidence) if is_scored else None,
            {"accuracy": {"accuracy": num_right / len(read), "right": num_right, "num": len(read)}} if is_scored else {},
            {"error": error_rate}, Latency(None, None, None, None, self._kept.seconds),
            duplicates=tuple(tuple(ids) for ids in same.values() if len(ids) > 1),
            overlap=overlap if overlap is None or is_scored else replace(overlap, without=None, without_interval=None),
            categories={
                name: (len(own), sum(bool(self.scores[at].right) for at in own) / len(own), self._interval(own, confidence))
                for name, own in sorted(by_category.items())
            } if is_scored and len(by_category) > 1 else {},
            extra={"lm-eval": self.results},
            num_groups=count_groups([self.examples[at].group for at in read]),
        )  # fmt: skip


def _variants(example: Example, doc: Mapping[str, Any]) -> Iterator[Example]:
    """A question as training data may hold it."""
    lists = [tuple(values) for values in _lists(doc) if len(values) > 1]
    for text in dict.fromkeys((example.text, *_texts(doc))):
        yield Example("", text, "", "")
        for choices in dict.fromkeys((*lists, *([example.choices] if example.choices else []))):
            yield Example("", text, "", "", choices=tuple(choice.strip() for choice in choices), answer=0)


def _texts(value: Any) -> Iterator[str]:
    """The texts of a row of a data set, those within lists left out: there stand choices."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)


def _lists(value: Any) -> Iterator[list[str]]:
    """The lists of texts in a row of a data set."""
    if isinstance(value, list) and all(isinstance(inner, str) for inner in value):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _lists(inner)
