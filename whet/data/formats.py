"""Example files of every de-facto format, detected row by row: JSONL, JSON and CSV to examples and rejects."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from pydantic import Field

from whet.data import chat_rows, choice_rows
from whet.data.csv_rows import CsvRow, read_csv_rows
from whet.data.json_rows import JsonRow, read_json_rows
from whet.data.rows import DataFile, Reject, Row, SourceSettings, Tally, describe, digest, finish, read_each
from whet.data.shapes import SHAPES, FormatName, RowFault, detect, refuse
from whet.errors import InputError
from whet.records import Example

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
_CSV_SUFFIXES = (".csv", ".tsv")
_HARMLESS = ("id", "idx", "source", "meta", "metadata", "category", "difficulty", "timestamp")


class ExampleFiles(SourceSettings):
    """Example files: chats, instructions, questions, choices, plain texts."""

    reader: Literal["examples"]
    """The reader's name."""
    formats: tuple[FormatName, ...] = ()
    """The formats that may occur; none named means all."""
    mixed: Literal["stop", "allow"] = "stop"
    """A row of another format than the file's first: stop stops the build, allow reads it as what it is."""
    ignore_keys: tuple[str, ...] = _HARMLESS
    """Keys of rows and turns that may be left out; any other key that no format knows rejects its row."""
    category_key: str = "category"
    """The key that holds the category; CSV files without it take theirs from the file's name."""
    group_key: str | None = None
    """The key of a row's document, which stays in one split and counts as one draw; null groups rows of equal texts."""
    max_number_share: float | None = Field(default=None, gt=0, le=1)
    """Raw chat logs: reject a row if at least this share of its previous messages are bare numbers; 0.8 is usual."""


ChatReader = Callable[[Mapping[str, Any], Collection[str]], chat_rows.Chat]
_CHATS: Mapping[FormatName, ChatReader] = {
    "messages": chat_rows.from_messages,
    "prompt_completion": chat_rows.from_prompt,
    "alpaca": chat_rows.from_alpaca,
    "sharegpt": chat_rows.from_sharegpt,
    "erniekit": chat_rows.from_erniekit,
    "question_answer": chat_rows.from_question,
}

_CHOICES: Mapping[FormatName, Callable[[Mapping[str, Any]], choice_rows.Choice]] = {
    "choices": choice_rows.from_choices,
    "lettered_choices": choice_rows.from_letters,
    "arc": choice_rows.from_arc,
}


def read_examples(source: ExampleFiles, files: Sequence[DataFile], tally: Tally) -> Iterator[Row]:
    """One example or reject a row."""
    return read_each(files, tally, partial(_read_file, source, tally))


def _read_file(source: ExampleFiles, tally: Tally, file: DataFile) -> Iterator[Row]:
    is_csv = file.path.suffix.lower() in _CSV_SUFFIXES
    rows = raw_rows(source, tally, file)
    category = choice_rows.category_of(file.path) if is_csv else ""
    first: FormatName | None = None
    for row in rows:
        if isinstance(row, Reject):
            yield row
            continue
        name = detect(row.value) if isinstance(row.value, dict) else None
        try:
            example = _read_row(source, row, name, first)
        except RowFault as fault:
            nearest = fault.nearest or (SHAPES[name].show(name) if name else "")
            yield Reject(row.place, fault.seen, nearest, fault.remedy, row.raw, fault.stops)
            continue
        first = first or name
        if example.choices and not example.category:
            example = _categorised(example, category)
        yield finish(example, row.raw)


def raw_rows(source: ExampleFiles, tally: Tally, file: DataFile) -> Iterator[JsonRow | Reject]:
    """The rows of a file before anything is made of them."""
    is_csv = file.path.suffix.lower() in _CSV_SUFFIXES
    return _csv_rows(source, tally, file) if is_csv else read_json_rows(file, source, tally, _is_row)


def _is_row(value: Any) -> bool:
    return isinstance(value, dict) and detect(value) is not None


def _categorised(example: Example, category: str) -> Example:
    return Example("", example.text, example.source, example.group, category, None, example.choices, example.answer)


def _read_row(source: ExampleFiles, row: JsonRow, name: FormatName | None, first: FormatName | None) -> Example:
    """The example in a row of the format `name`; RowFault if it can't be had."""
    if not isinstance(row.value, dict):
        raise RowFault(f"{describe(row.value)} where an object is due", "Give each row the keys of a known format")
    refuse(row.value, name, {*source.ignore_keys, source.category_key, source.group_key or source.category_key})
    if name is None:
        raise AssertionError("refuse() lets no row of unknown format pass")
    if source.formats and name not in source.formats:
        raise RowFault(f"{_article(name)} row; formats allows {', '.join(source.formats)}", "Name it in formats, or take it out")
    if source.mixed == "stop" and first and name != first:
        raise RowFault(f"{_article(name)} row amid {first} rows",
                       "Put it into a file of its own, or set `mixed: allow`",
                       SHAPES[first].show(first), stops=True)  # fmt: skip
    example = _convert(source, row, name)
    return example if source.group_key is None else replace(example, group=_group(source.group_key, row.value))


def _group(key: str, value: Mapping[str, Any]) -> str:
    """The name of a row's document; RowFault where it says none."""
    said = value.get(key)
    if not isinstance(said, str | int) or said == "":
        raise RowFault(f"no {key} to group by", f"Give every row the {key} of its document, or take group_key out")
    return digest(f"{key}={said}")


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _convert(source: ExampleFiles, row: JsonRow, name: FormatName) -> Example:
    value: Mapping[str, Any] = row.value
    category = value.get(source.category_key)
    category = str(category) if isinstance(category, str | int | float) else ""
    if name == "text":
        text = chat_rows.text_of(value, "text")
        if not text.strip():
            raise RowFault("an empty text", "Fill it, or take the row out")
        return Example("", text, row.place, digest(text), category)
    if name in _CHOICES:
        found = _CHOICES[name](value)
        return Example("", found.question, row.place, digest(found.question), category,
                       choices=found.choices, answer=found.answer)  # fmt: skip
    if name == "chat_log":
        chat = chat_rows.from_chat_log(value, source.ignore_keys, source.max_number_share)
    else:
        chat = _CHATS[name](value, source.ignore_keys)
    return Example("", chat.text, row.place, digest(chat.group), category, messages=chat.messages)


def _csv_rows(source: ExampleFiles, tally: Tally, file: DataFile) -> Iterator[JsonRow | Reject]:
    """CSV rows as if they were JSON objects; the first row names the columns unless it is a question itself."""
    names: list[str] | None = None
    for row in read_csv_rows(file, source):
        if names is None:
            if isinstance(row, Reject):
                raise InputError(row.place, f"no header can be read: {row.seen}", row.remedy)
            names, is_header = _columns(row, file)
            if is_header:
                continue
        tally["rows"] += 1
        if isinstance(row, Reject):
            yield row
            continue
        raw = ",".join(row.cells)
        if len(row.cells) != len(names):
            yield Reject(row.place, f"{len(row.cells)} cells under {len(names)} columns", ", ".join(names),
                         "Quote cells that hold commas, quotes or line breaks", raw)  # fmt: skip
            continue
        yield JsonRow(row.place, choice_rows.fold_columns(names, row.cells), raw)


def _columns(row: CsvRow, file: DataFile) -> tuple[list[str], bool]:
    """The column names, and whether the row is a header."""
    names = [cell.strip() for cell in row.cells]
    repeated = sorted({name for name in names if names.count(name) > 1})
    folded = choice_rows.fold_columns(names, names)
    if detect(folded) is not None and not repeated:
        return names, True
    guessed = choice_rows.headerless_names(names)
    if guessed:
        return guessed, False
    shown = ", ".join(names[:10])
    what = f"names the column {repeated[0]} twice" if repeated else f"has the columns {shown}, of no known format"
    raise InputError(row.place, what, "Name the columns as a known format does, such as question,choice0,choice1,answer")
