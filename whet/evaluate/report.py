"""The report: plain data about a run, one self-contained HTML file of it, and the same facts for machines."""

import dataclasses
import importlib.resources
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from whet.evaluate.charts import draw_bars, draw_coverage, draw_losses, draw_reliability
from whet.evaluate.compare import Comparison, say_p
from whet.evaluate.reliability import Reliability
from whet.evaluate.shown import ShownExample, cut, line_up
from whet.evaluate.statistics import Interval
from whet.evaluate.sureness import Sureness, say_acceptance
from whet.storage import write_text

METRICS_VERSION = 1

RATE_MEANINGS = {
    "unread": "the reply could not be read",
    "ungrounded": "values said that do not stand in the text",
    "truncated": "the reply was cut off by the token limit; where it was closed all the same, its whole records count",
    "violated": "the reply breaks the constraint that its engine was asked to keep",
    "error": "the engine failed; such examples are counted here and are in no score",
}


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of the data funnel: how many examples are left, or were dropped, and why."""

    name: str
    count: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Split:
    """What a split holds; negatives are examples without any record; tokens are those of whole rows."""

    name: str
    examples: int
    records: int | None = None
    negatives: int | None = None
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class LeakCount:
    """How many examples of `left` stand in `right` too, by one kind of sameness (exact, normalised, near)."""

    left: str
    right: str
    kind: str
    num: int


@dataclass(frozen=True, slots=True)
class LeakPair:
    """One leaking pair: where each stands, its texts, and how similar they are, 0 to 1."""

    left: str
    right: str
    kind: str
    left_text: str
    right_text: str
    similarity: float = 1.0


@dataclass(frozen=True, slots=True)
class Proof:
    """Something that was proved, or failed to be, before or after training."""

    name: str
    held: bool
    words: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of the rendered example, and whether its tokens are learnt."""

    text: str
    is_learnt: bool


@dataclass(frozen=True, slots=True)
class Losses:
    """(step, loss) in nats a learnt token, and the step whose adapter was kept."""

    train: tuple[tuple[int, float], ...] = ()
    valid: tuple[tuple[int, float], ...] = ()
    best_step: int | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure from 0 to 1, its interval, and how many examples it rests on."""

    value: float
    interval: Interval | None = None
    num: int | None = None


@dataclass(frozen=True, slots=True)
class FieldScore:
    """Strict scores of one field."""

    precision: float
    recall: float
    f1: float
    interval: Interval | None = None
    """Of f1."""
    precision_interval: Interval | None = None
    recall_interval: Interval | None = None


@dataclass(frozen=True, slots=True)
class System:
    """A column of the table: whatever answered the held-out examples.

    score: the headline figure. rates: shares of what was asked, such as "unread"; rate_intervals: theirs. fields: for extraction.
    categories, letters: for choice questions, the accuracy by category and the share of each letter among its answers.
    """

    name: str
    role: Literal["base", "server", "baseline", "specialist"]
    score: Estimate
    precision: Estimate | None = None
    recall: Estimate | None = None
    rates: Mapping[str, float] = field(default_factory=dict)
    seconds: float | None = None
    num_asked: int | None = None
    fields: Mapping[str, FieldScore] = field(default_factory=dict)
    categories: Mapping[str, Estimate] = field(default_factory=dict)
    letters: Mapping[str, float] = field(default_factory=dict)
    rate_intervals: Mapping[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One setting of the run."""

    name: str
    value: str
    is_default: bool
    meaning: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All that a report says. What is empty is left out of the page."""

    title: str
    created: str
    headline: tuple[str, str]
    """Measure and figure that `System.score` is, such as ("record", "f1")."""
    systems: tuple[System, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    """Each with the other system first and the specialist second, by the systems' names."""
    provenance: tuple[tuple[str, str], ...] = ()
    funnel: tuple[Stage, ...] = ()
    splits: tuple[Split, ...] = ()
    leaks: tuple[LeakCount, ...] = ()
    leak_pairs: tuple[LeakPair, ...] = ()
    proofs: tuple[Proof, ...] = ()
    rendered: tuple[Piece, ...] = ()
    losses: Losses | None = None
    letters: Mapping[str, float] = field(default_factory=dict)
    """Choice questions: the share of each letter among the right answers."""
    best_constant: tuple[str, float] | None = None
    """Choice questions: the letter that, always said, scores best, and its accuracy."""
    num_distinct: int | None = None
    """How many of the questions are distinct."""
    examples: tuple[ShownExample, ...] = ()
    settings: tuple[SettingRow, ...] = ()
    confidence: float = 0.95
    """Confidence of all intervals."""
    text_language: str = "zh"
    """Language of the source texts, for the choice of their font."""
    sure: Sureness | None = None
    """How far the specialist's confidences go, and which records need no review."""


@dataclass(frozen=True, slots=True)
class Conclusion:
    """One thing that the comparisons say, good or bad news for the specialist, or neither."""

    tone: Literal["good", "bad", "even"]
    words: str
    detail: str


def conclude(report: Report) -> tuple[Conclusion, ...]:
    """What the comparisons say of the specialist, plainly, bad news first."""
    roles = {system.name: system.role for system in report.systems}
    found: list[Conclusion] = []
    tone: Literal["good", "bad", "even"]
    for comparison in report.comparisons:
        other, this = comparison.names
        this = "the specialist" if this == "specialist" else this
        than = other
        if roles.get(other) == "base":
            than = "its base" if other == "base" else f"its base ({other})"
        elif roles.get(other) == "server":
            than = f"the {other}"
        elif roles.get(other) == "baseline":
            than = f"the baseline {other}"
        if comparison.verdict == "better":
            tone, words = "good", f"{this} is better than {than}"
        elif comparison.verdict == "worse":
            wins = f"{than} wins: it" if roles.get(other) == "baseline" else than
            tone, words = "bad", f"{wins} is better than {this}"
        else:
            higher = f", though {other} scores higher" if comparison.a > comparison.b else ""
            tone, words = "even", f"{this} is not shown to differ from {than}{higher}"
        found.append(Conclusion(tone, _start_upper(words) + ".", _start_upper(comparison.numbers)))
    return tuple(sorted(found, key=lambda conclusion: ("bad", "even", "good").index(conclusion.tone)))


def _start_upper(words: str) -> str:
    """Our own words start a sentence with a capital; a system's name stays as it is written."""
    return words[0].upper() + words[1:] if words.startswith(("the ", "its ", "record ", "accuracy ")) else words


def metrics_json(report: Report) -> dict[str, Any]:
    """The report's facts as JSON values, keys as the classes name them; a number that is not finite is null."""
    facts = {"version": METRICS_VERSION, **dataclasses.asdict(report)}
    facts["conclusions"] = [dataclasses.asdict(conclusion) for conclusion in conclude(report)]
    plain: dict[str, Any] = _to_plain(facts)
    return plain


def _to_plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_report(path: Path, report: Report) -> None:
    """Write the report as one HTML file that loads nothing from anywhere."""
    write_text(path, render(report))


def render(report: Report) -> str:
    """The report's HTML."""
    import jinja2

    source = read_beside("report.html.j2")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    curve = report.losses or Losses()
    environment.filters |= {"score": say_score, "share": say_share, "count": _say_count, "time": say_time, "p": say_p}
    environment.filters["tie"] = lambda words: LOOSE.sub("\N{NO-BREAK SPACE}", words)
    html = environment.from_string(source).render(
        report=report, style=read_style(), conclusions=conclude(report), sections=tuple(_sections(report)),
        cut=cut, line_up=line_up,
        losses=draw_losses(curve.train, curve.valid, curve.best_step),
        bars=draw_bars([(stage.name, stage.count, stage.note) for stage in report.funnel]),
        figure=say_figure(report.headline), summary=_summarise(report),
        rate_meanings=RATE_MEANINGS, rates=_keys(system.rates for system in report.systems),
        fields=_keys(system.fields for system in report.systems),
        categories=_keys(system.categories for system in report.systems),
        letters=_keys([report.letters, *(system.letters for system in report.systems)]),
        **_draw_sure(report.sure),
    )  # fmt: skip
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", html)


def read_beside(name: str) -> str:
    """A text file of this package, such as a template."""
    return importlib.resources.files("whet.evaluate").joinpath(name).read_text("utf-8")


def read_style() -> Any:
    """The style sheet of the report and of its sister pages, to be set into a template as it is."""
    import markupsafe

    return markupsafe.Markup(read_beside("report.css").rstrip("\n"))  # noqa: S704 (our own file)


LOOSE = re.compile(r"(?<=p) (?=[=<])|(?<=[=<]) (?=0)|(?<=\d) (?=%)")
"""Spaces at which a figure must not be broken."""

UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""Characters that HTML or UTF-8 can't hold."""


def _sections(report: Report) -> Iterator[tuple[str, str]]:
    """Anchor and title of each section that has something to say."""
    is_choice = any(system.categories or system.letters for system in report.systems)
    yield from (
        (anchor, title)
        for anchor, title, is_there in (
            ("scores", "Scores", report.systems),
            ("fields", "By field", any(system.fields for system in report.systems)),
            ("categories", "By category and letter", is_choice),
            ("sure", "Sure or not", report.sure),
            ("comparisons", "Comparisons", report.comparisons),
            ("examples", "Examples", report.examples),
            ("data", "Data", report.funnel or report.splits),
            ("leaks", "Leak check", report.leaks),
            ("training", "Training", report.losses or report.proofs or report.rendered),
            ("provenance", "Made from", report.provenance),
            ("settings", "Settings", report.settings),
        )
        if is_there
    )


def _draw_sure(sure: Sureness | None) -> dict[str, Any]:
    """The charts of the confidences, and what they say in words."""
    if sure is None:
        return {"reliability": None, "coverage": None, "acceptance": ""}
    whole = sure.measured[0] if sure.measured else None
    found, on = sure.acceptance, sure.accepted
    precision = found.precision if found and not found.is_given else None
    point = (on.num_accepted / on.num_records, on.num_right / on.num_accepted) if on and on.num_accepted else None
    return {
        "reliability": draw_reliability(_dots(whole.raw), _dots(whole.calibrated)) if whole else None,
        "coverage": draw_coverage([(p.coverage, p.precision) for p in sure.coverage], precision, point),
        "acceptance": say_acceptance(sure),
    }


def _dots(found: Reliability) -> list[tuple[float, float, float, float, int]]:
    return [(bin_.confidence, bin_.share_right, bin_.interval.low, bin_.interval.high, bin_.num) for bin_ in found.bins]


def _keys(mappings: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The keys of all mappings, in the order in which they first appear."""
    return tuple(dict.fromkeys(key for mapping in mappings for key in mapping))


def _summarise(report: Report) -> str:
    """The chart of scores in words."""
    scores = (f"{system.name} {say_score(system.score.value)}" for system in report.systems)
    return f"{say_figure(report.headline)}: {', '.join(scores)}"


def say_figure(headline: tuple[str, str]) -> str:
    """A headline in words: "accuracy", "record F1"."""
    measure, figure = headline
    words = "F1" if figure == "f1" else figure
    return words if measure == figure else f"{measure} {words}"


def say_score(value: float | None) -> str:
    """A figure from 0 to 1: "0.482"."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"


def say_share(value: float | None) -> str:
    """A share in per cent: "48.2 %"."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.1f} %"


def _say_count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def say_time(seconds: float | None) -> str:
    """A duration in the units that a reader would choose: "0.4 s", "12 s", "3 min 20 s", "2 h 5 min"."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s"
