"""The page that shows an extraction: its records in their source, in one HTML file that loads nothing."""

import base64
import difflib
import hashlib
import importlib.resources
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from whet.config import Settings
from whet.errors import InputError, counted
from whet.pipeline.view.columns import ShownDocument, embed, page_data
from whet.pipeline.view.rows import Gathered, Range, ReadRow, gather
from whet.pipeline.view.texts import SourceText, read_passages, texts_of
from whet.storage import write_text

SCRIPTS = ("store.js", "marks.js", "blocks.js", "find.js", "text.js", "list.js", "card.js", "filters.js", "main.js")


class ViewSettings(Settings):
    """What of an extraction goes on its page."""

    documents: tuple[str, ...] = ()
    """Names of the documents to show, as the output says them; none shows all that have records, up to the limits."""
    around: int | None = Field(default=None, ge=0)
    """Show only this many characters around each record; null shows whole documents."""
    max_chars: int = Field(default=2_000_000, ge=1)
    """Most characters of source text on the page."""
    max_records: int = Field(default=100_000, ge=1)
    """Most records on the page."""
    allow_changed: bool = False
    """Mark values that no longer stand where they were read, instead of refusing to write the page."""
    language: str = "zh"
    """Language of the source texts, for the choice of their font."""


@dataclass(frozen=True, slots=True)
class Viewed:
    """What a written page holds, and what it leaves out."""

    num_documents: int
    num_records: int
    num_chars: int
    num_changed: int
    notes: tuple[str, ...]


def write_view(out_path: Path, page_path: Path, settings: ViewSettings) -> Viewed:
    """Write the page of an extraction's output.

    Raises InputError for rows that are none, for documents that are gone, and for values that no longer stand in their source
    (unless `allow_changed`).
    """
    gathered = gather(out_path, frozenset(settings.documents), settings.max_records)
    _refuse_unknown(out_path, gathered, settings.documents)
    documents, gone = _choose(texts_of(out_path, gathered.rows), gathered, settings)
    if gone and not settings.allow_changed:
        name, reason = next(iter(gone.items()))
        more = f" (and {len(gone) - 1:,} other documents are gone)" if len(gone) > 1 else ""
        raise InputError(name, f"this document can't be read any more: {reason}{more}", _ALLOW)
    documents += [ShownDocument(name, (), tuple(gathered.rows[name])) for name in gone]
    data, faults = page_data(documents)
    if faults and not settings.allow_changed:
        shown = "".join(f"\n  {fault.document}: {fault}" for fault in faults[:5])
        more = f"\n  and {len(faults) - 5:,} more" if len(faults) > 5 else ""
        what = f"the source has changed since it was read:{shown}{more}"
        raise InputError(str(out_path), what, f"Extract it again. {_ALLOW}")
    notes = tuple(_notes(gathered, data["num_records"], documents, len(faults), settings))
    write_text(page_path, render(data | {"name": out_path.name, "notes": notes}, settings.language))
    num_chars = sum(len(passage.text) for shown in documents for passage in shown.passages)
    return Viewed(len(documents), data["num_records"], num_chars, len(faults), notes)


_ALLOW = "--allow-changed shows the page all the same, and marks such values"


def _refuse_unknown(out_path: Path, gathered: Gathered, wanted: Sequence[str]) -> None:
    for name in wanted:
        if name not in gathered.num_rows:
            near = difflib.get_close_matches(name, list(gathered.num_rows)[:10_000], 1, 0.4)
            remedy = f"The nearest is {near[0]}" if near else "Names stand in its rows, under `document`"
            raise InputError(str(out_path), f"has no records of a document {name!r}", remedy)
    if not gathered.rows:
        raise InputError(str(out_path), "holds no records, so there is nothing to show")


def _choose(
    texts: Iterable[SourceText], gathered: Gathered, settings: ViewSettings
) -> tuple[list[ShownDocument], dict[str, str]]:
    """The documents as far as the page has room for them, and the names of those that are gone, with the reasons.

    The rows of a document that is cut are those that stand before the cut.
    """
    chosen: list[ShownDocument] = []
    gone, left = dict[str, str](), settings.max_chars
    for source in texts:
        if left <= 0:
            break
        if source.problem:
            gone[source.name] = source.problem
            continue
        rows = gathered.rows[source.name]
        ranges = _cut([(0, left)] if settings.around is None else _around(rows, settings.around), left)
        passages, goes_on = read_passages(source.pieces, ranges) if ranges else ((), True)
        left -= sum(len(passage.text) for passage in passages)
        if settings.around is not None or goes_on:
            rows = [row for row in rows if _stands_in(row, ranges)]
        if rows:
            chosen.append(ShownDocument(source.name, passages, tuple(rows), goes_on))
    return chosen, gone


def _around(rows: Sequence[ReadRow], num_chars: int) -> list[Range]:
    """The ranges that hold all rows' spans and so many characters around them; those that touch are one."""
    joined: list[Range] = []
    for start, end in sorted((max(0, start - num_chars), end + num_chars) for row in rows for start, end in row.spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _cut(ranges: Sequence[Range], left: int) -> list[Range]:
    """The first ranges, cut to so many characters in all."""
    fit = []
    for start, end in ranges:
        if left <= 0:
            break
        fit.append((start, min(end, start + left)))
        left -= end - start
    return fit


def _stands_in(row: ReadRow, ranges: Sequence[Range]) -> bool:
    """Whether each span of a row stands within one of the ranges."""
    starts = [start for start, _ in ranges]
    return all((at := bisect_right(starts, start)) > 0 and end <= ranges[at - 1][1] for start, end in row.spans)


def _notes(
    gathered: Gathered, num_shown: int, documents: Sequence[ShownDocument], num_changed: int, settings: ViewSettings
) -> Iterator[str]:
    """What the reader of the page must know: what it leaves out, and what is wrong with what it shows."""
    counts = [gathered.num_rows[name] for name in settings.documents or gathered.num_rows]
    if num_shown < sum(counts):
        yield (
            f"{sum(counts) - num_shown:,} of {sum(counts):,} records are left out: the page holds {len(documents):,} of "
            f"{len(counts):,} documents with records, at most {settings.max_chars:,} characters and {settings.max_records:,} "
            "records. Choose documents with --document, show only the text around records with --around, or allow more with "
            "--max-chars and --max-records."
        )
    if settings.around is not None:
        yield f"Only the text around records is shown, {settings.around:,} characters on each side."
    if num_changed:
        changed = counted(num_changed, "value", "no longer stands", "no longer stand")
        yield f"{changed} where the text was read: the source has changed since, and this is marked."
    if gathered.num_twice:
        yield f"{counted(gathered.num_twice, 'record', 'has', 'have')} the id of an earlier one; a link leads to the first."


def render(data: dict[str, Any], language: str) -> str:
    """The page's HTML."""
    import jinja2

    folder = importlib.resources.files("whet.pipeline.view") / "page"
    style = (folder / "page.css").read_text("utf-8")
    script = '"use strict";(() => {\n' + "".join((folder / name).read_text("utf-8") for name in SCRIPTS) + "})();"
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string((folder / "page.html.j2").read_text("utf-8")).render(
        name=data["name"],
        notes=data["notes"],
        language=language,
        policy=f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; base-uri 'none'; "
        "form-action 'none'; require-trusted-types-for 'script'",
        style=style,
        script=script,
        data=embed(data),
    )


def _hash(text: str) -> str:
    """What a content security policy calls an inline style or script by, so that no other one is run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
