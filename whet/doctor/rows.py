"""Looks at example files: leaks, shapes, golds that don't stand in the text, prompts, and what a tokenizer makes of them."""

import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whet.data.clean import gold_of, question_of
from whet.data.near import NearTexts, ngrams
from whet.data.rows import Reject
from whet.doctor.chunks import look_chunks
from whet.doctor.finding import Context, Finding, Findings, error, note, share, warning
from whet.doctor.labels import look_labels
from whet.doctor.offsets import look_offsets
from whet.doctor.splits import Rows
from whet.doctor.tokens import look_tokens
from whet.records import Example

NEAR = 0.8
SHORT = 24  # characters of an answer that has one wording


def look(splits: list[Rows], context: Context) -> Findings:
    """All findings about the rows of a folder or of files."""
    for check in CHECKS:
        yield from check(splits, context)


def _leaks(splits: list[Rows], _: Context) -> Findings:
    """The same question in two splits: equal when normalised, or nearly equal."""
    for at, left in enumerate(splits):
        for right in splits[at + 1 :]:
            seen = {key: number for number, key in enumerate(left.keys)}
            leaked = [number for number, key in enumerate(right.keys) if key in seen]
            near = _near(left, right, {right.keys[number] for number in leaked})
            if not leaked and not near:
                continue
            example = right.examples[(leaked or near)[0]]
            words = f"{share(len(leaked), len(right.keys))} rows of {right.name} also stand in {left.name}"
            words += f", and {len(near):,} more nearly so" if near else ""
            makes = error if 20 * (len(leaked) + len(near)) >= len(right.keys) else warning
            yield makes(
                "leak",
                example.source,
                words,
                f"What is measured on {right.name} is partly memory: the figures are too good.",
                f"Split by document, or set data.split.leaks=move for `whet data build`; the first: {example.text[:50]!r}",
            )


def _near(left: Rows, right: Rows, known: set[str]) -> list[int]:
    """Numbers of the rows of `right` that are nearly a row of `left`."""
    ours = [key for key in dict.fromkeys(right.keys) if key not in known]
    theirs = [key for key in dict.fromkeys(left.keys) if key not in known]
    texts = [left.texts[key] for key in theirs] + [right.texts[key] for key in ours]
    num = len(theirs)

    def wanted(i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.bool_]:
        mask: NDArray[np.bool_] = (i < num) != (j < num)
        return mask

    if not ours or not theirs:
        return []
    found = NearTexts(len(texts), lambda at: ngrams(texts[at], 3, 5), NEAR)
    keys = {ours[max(i, j) - num] for i, j, _ in found.pairs(wanted)}
    return [number for number, key in enumerate(right.keys) if key in keys]


def _shapes(splits: list[Rows], _: Context) -> Findings:
    for rows in splits:
        for path, num_read in rows.cut:
            yield note("not looked at", path, f"rows after the first {num_read:,}", "The figures speak of the first ones.", "")
        yield from look_offsets(rows.place, rows.offsets)
        known = {name: number for name, number in rows.formats.items() if name != "unknown"}
        total = sum(rows.formats.values())
        if len(known) > 1:
            first, number = rows.formats.most_common(1)[0]
            yield error(
                "mixed shapes",
                rows.place,
                f"{share(total - number, total)} rows are of another shape than {first}: "
                + ", ".join(f"{n:,} {name}" for name, n in rows.formats.most_common()),
                "A trainer that takes the shape of the first row drops the others, or trains empty texts.",
                "Bring them to one shape: whet data convert IN -o OUT --to messages",
            )
        by_kind: dict[tuple[str, str], list[Reject]] = {}
        for reject in rows.rejects:
            by_kind.setdefault((reject.seen[:120], reject.remedy), []).append(reject)
        for (seen, remedy), found in by_kind.items():
            makes: Callable[..., Finding] = error if found[0].stops or 10 * len(found) >= total else warning
            yield makes(
                "rows that are lost",
                found[0].place,
                f"{share(len(found), max(total, len(found)))} rows: {seen}",
                "A trainer drops such rows or parts of them with a line in a log, or trains something else.",
                remedy or "Mend or take out these rows",
            )


def _repeats(splits: list[Rows], _: Context) -> Findings:
    for rows in splits:
        golds: dict[str, set[str]] = {}
        for key, example in zip(rows.keys, rows.examples, strict=True):
            golds.setdefault(key, set()).add(gold_of(example))
        # Two wordings of one answer are no quarrel: only short answers and records can contradict each other.
        torn = [key for key, found in golds.items() if len(found) > 1 and all(_is_exact(gold) for gold in found)]
        repeated = len(rows.keys) - len(golds)
        if torn and 50 * len(torn) >= len(golds):
            at = rows.keys.index(torn[0])
            yield warning(
                "two golds for one question",
                rows.examples[at].source,
                f"{share(len(torn), len(golds))} questions of {rows.name} have two or more answers",
                "The loss can't fall below the quarrel of the labels.",
                "Settle them, or keep the first: data.clean.conflicting=first",
            )
        elif repeated and 10 * repeated >= len(rows.keys):
            yield note(
                "repeated rows",
                rows.place,
                f"{share(repeated, len(rows.keys))} rows of {rows.name} repeat another's question",
                "They weigh more than the others, in training and in the score.",
                "Drop them: data.clean.duplicates=drop",
            )


def _is_exact(gold: str) -> bool:
    return len(gold) <= SHORT or _json_of(gold) is not None


def _golds(splits: list[Rows], _: Context) -> Findings:
    """Structured answers: lists that are never empty, values that don't stand in the text."""
    for rows in splits:
        answers = [(example, _json_of(gold_of(example))) for example in rows.examples]
        lists = [(example, value) for example, value in answers if isinstance(value, list)]
        if len(lists) >= 20 and 10 * len(lists) >= 9 * len(answers) and rows.name == "train" and all(value for _, value in lists):
            yield warning(
                "no negatives",
                rows.place,
                f"none of the {len(lists):,} answers of train is an empty list",
                "The model never saw a text without a find, so it finds something in every text.",
                "Add texts without any, with the answer []",
            )
        yield from _ungrounded(rows, [(example, value) for example, value in answers if value is not None])


def _ungrounded(rows: Rows, answers: list[tuple[Example, Any]]) -> Findings:
    """A field whose values nearly always stand in the text, and sometimes don't."""
    inside: Counter[str] = Counter()
    outside: dict[str, list[tuple[Example, str]]] = {}
    for example, value in answers:
        asked = question_of(example)
        for record in value if isinstance(value, list) else [value]:
            for key, text in record.items() if isinstance(record, dict) else [("", record)]:
                if isinstance(text, str) and text:
                    if text in asked:
                        inside[key] += 1
                    else:
                        outside.setdefault(key, []).append((example, text))
    for key, missing in outside.items():
        total = inside[key] + len(missing)
        if total >= 20 and inside[key] >= 0.85 * total:
            example, text = missing[0]
            yield warning(
                "gold that is not in the text",
                example.source,
                f"{share(len(missing), total)} values of {key or 'the answers'} do "
                f"not stand in their text, such as {text[:30]!r}",
                "The model learns to invent; offsets off by one and other scripts look like this too.",
                "Correct them, or drop them: data.clean.ungrounded=drop",
            )


def _json_of(text: str) -> Any:
    if text[:1] not in ("[", "{"):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _prompts(splits: list[Rows], _: Context) -> Findings:
    """The text around the question is not the same in train and where it is measured."""
    train = next((rows for rows in splits if rows.name == "train"), None)
    for rows in splits:
        if train is None or rows is train or not rows.examples or not train.examples:
            continue
        ours, theirs = ({_system(example) for example in some.examples} for some in (train, rows))
        if not ours & theirs and len(ours) <= 3 and len(theirs) <= 3:
            yield error(
                "another prompt",
                rows.examples[0].source,
                f"no row of {rows.name} has a system message of train "
                f"({sorted(ours)[0][:40]!r} there, {sorted(theirs)[0][:40]!r} here)",
                "A small model that was trained with one prompt is measured, or served, with another.",
                "Write the same prompt into both, or leave it to the recipe: task.system",
            )


def _system(example: Example) -> str:
    return next((message.content for message in example.messages if message.role == "system"), "")


def _forms(splits: list[Rows], _: Context) -> Findings:
    for rows in splits:
        texts = [example.text for example in rows.examples if not example.text.isascii()]
        loose = [text for text in texts if not unicodedata.is_normalized("NFC", text)]
        if loose and 20 * len(loose) >= len(texts) and len(loose) < len(texts):
            yield warning(
                "mixed normal forms",
                rows.place,
                f"{share(len(loose), len(texts))} texts are not in the composed form (NFC), the rest is",
                "The same letter is two different token sequences, and spans of the one are not found in the other.",
                "Write all in one form: data.prepare.form=NFC",
            )


def _feedback_rows(splits: list[Rows], _: Context) -> Findings:
    for rows in splits:
        total = sum(rows.feedback.values())
        open_, unchecked = rows.feedback["unreviewed"] + rows.feedback["unchecked"], rows.feedback["unchecked"]
        if open_:
            yield error(
                "unreviewed output",
                rows.place,
                f"{share(open_, total)} rows hold a model's own output that nobody corrected"
                + (f"; {unchecked:,} of them say that no review is needed, and no check ran" if unchecked else ""),
                "Training on them teaches the model its own mistakes.",
                "Keep the corrected rows only",
            )


CHECKS: tuple[Callable[[list[Rows], Context], Iterator[Finding]], ...] = (
    _leaks,
    look_chunks,
    _shapes,
    _repeats,
    _golds,
    look_labels,
    _prompts,
    _forms,
    _feedback_rows,
    look_tokens,
)
