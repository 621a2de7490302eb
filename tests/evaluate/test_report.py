"""The report: self-contained, escaped, well-formed, honest."""

import dataclasses
import json
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outline import Outline
from sample_reports import choice_report, make_runs, sample_report

from whet.evaluate.compare import compare
from whet.evaluate.report import (
    Conclusion,
    Estimate,
    LeakCount,
    LeakPair,
    Losses,
    Report,
    System,
    conclude,
    metrics_json,
    render,
    say_time,
    write_report,
)
from whet.evaluate.shown import Mark, ShownExample
from whet.evaluate.sureness import SAME_SPLIT, Sureness


@pytest.fixture(scope="module")
def page():
    return render(sample_report())


@pytest.fixture(scope="module", params=[sample_report, choice_report], ids=["extraction", "choice"])
def any_page(request):
    return render(request.param())


def test_tags_are_balanced_and_ids_and_anchors_agree(any_page):
    outline = Outline(any_page)
    ids = [attrs["id"] for _, attrs in outline.tags if "id" in attrs]
    assert len(set(ids)) == len(ids)
    anchors = [attrs["href"] for tag, attrs in outline.tags if tag == "a"]
    assert anchors
    assert {anchor.removeprefix("#") for anchor in anchors} <= set(ids)
    labels = {attrs["aria-labelledby"] for _, attrs in outline.tags if "aria-labelledby" in attrs}
    assert labels <= set(ids)
    assert [tag for tag, _ in outline.tags].count("h1") == 1


def test_nothing_is_loaded_from_anywhere(any_page):
    outline = Outline(any_page)
    loading = {"src", "srcset", "data", "action", "poster", "background", "xlink:href", "formaction"}
    assert not [(tag, attrs) for tag, attrs in outline.tags if loading & set(attrs)]
    assert not {"script", "link", "iframe", "img", "object", "embed", "base"} & {tag for tag, _ in outline.tags}
    assert all(attrs["href"].startswith("#") for _, attrs in outline.tags if "href" in attrs)
    assert not re.search(r"@import|url\(|https?:|//[a-z]", any_page)
    policy = next(attrs["content"] for _, attrs in outline.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_every_part_says_its_facts(page):
    text = " ".join(Outline(page).texts)
    for words in (
        "The specialist is better than its base.", "The specialist is better than the baseline CRF.", "5f2b7c0e9a1d",
        "4,200", "402,113", "4 bad rows, listed in rejects.jsonl", "1 example leaks between splits",
        "annals.jsonl:3999", "norm of B 0 → 3.41", "best: ", "train.learning_rate", "Rank of the LoRA matrices.",
        "行在大理寺左少卿", "98.0 %", "Nothing to find, and nothing said.", "At 90", "precision 251 of 600 records of the valid split",
        "93.4", "Error before", "90 % asked for",
    ):  # fmt: skip
        assert words in text
    learnt = re.findall(r'<mark title="learnt">.*?</mark>', page)
    assert len(learnt) == 1
    assert "蹇義" in learnt[0]
    assert "im_start" not in learnt[0]


def test_the_choice_page_shows_the_letters_and_the_constant():
    text = " ".join(Outline(render(choice_report())).texts)
    for words in ("Whoever always says B scores 0.260", "240 distinct questions", "71.0 %", "physics", "Holm"):
        assert words in text


def test_what_is_not_known_of_confidences_is_said():
    report = dataclasses.replace(sample_report(), sure=Sureness(reason="the engine gave no log-probabilities"))
    page = render(report)
    assert "Nothing is known of the confidences: the engine gave no log-probabilities." in page
    assert "Can a confidence be believed?" not in page
    sure = sample_report().sure
    nothing = dataclasses.replace(sure.acceptance, threshold=None, num_accepted=0, num_right=0, num_needed=29)
    page = render(dataclasses.replace(report, sure=dataclasses.replace(sure, acceptance=nothing, accepted=None)))
    assert "Every record needs review: the 600 records of the valid split show no confidence above which" in page
    assert "29 independent ones, all of them right, would just do." in page
    unmeasured = dataclasses.replace(sure, measured=(), coverage=(), accepted=None, reason=SAME_SPLIT)
    page = render(dataclasses.replace(report, sure=unmeasured))
    assert "Confidences were not measured: they are calibrated on the split that is evaluated here" in page
    Outline(page)


def spoil(value, poison):
    """The same data with every string poisoned, except the ones that code branches on."""
    if isinstance(value, str):
        return value + poison if value else value
    if isinstance(value, dict):
        return {spoil(k, poison): spoil(v, poison) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(spoil(item, poison) for item in value)
    if dataclasses.is_dataclass(value):
        kept = {"role", "outcome", "kind", "verdict", "tone"} if not isinstance(value, LeakPair | LeakCount) else set()
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return type(value)(**{k: v if k in kept else spoil(v, poison) for k, v in fields.items()})
    return value


@pytest.mark.parametrize("make", [sample_report, choice_report], ids=["extraction", "choice"])
def test_every_text_is_escaped(make):
    poison = '<script>alert(1)</script>"\'><b x="&amp;'
    outline = Outline(render(spoil(make(), poison)))
    assert not {"script", "b"} & {tag for tag, _ in outline.tags}
    assert not any("x" in attrs for tag, attrs in outline.tags if tag not in {"line", "circle"})
    assert sum(poison in text for text in outline.texts) > 30
    clean = Outline(render(make()))
    assert [tag for tag, _ in outline.tags] == [tag for tag, _ in clean.tags]


@settings(max_examples=8, deadline=None)
@given(st.text(st.characters(exclude_categories=()), max_size=30))
def test_any_text_can_be_shown_and_written(text):
    example = ShownExample("x", text, (), (), "right", (Mark(0, 1, "wrong", text),))
    page = render(Report(text, text, ("record", "f1"), examples=(example,), provenance=((text, text),)))
    page.encode("utf-8")
    assert "\0" not in page
    Outline(page)


def test_a_report_with_nothing_in_it_is_a_page():
    page = render(Report("Empty", "today", ("record", "f1")))
    assert "<h1>Empty</h1>" in page
    assert "<h2" not in page
    Outline(page)


def test_it_is_written_whole(tmp_path):
    path = tmp_path / "run" / "report.html"
    write_report(path, sample_report())
    assert path.read_text("utf-8") == render(sample_report())


def test_metrics_hold_the_same_facts_as_json():
    report = dataclasses.replace(sample_report(), losses=Losses(((1, math.nan),), ()))
    facts = json.loads(json.dumps(metrics_json(report), allow_nan=False))
    assert facts["version"] == 1
    assert facts["losses"]["train"] == [[1, None]]
    assert facts["systems"][3]["score"]["value"] == report.systems[3].score.value
    assert facts["comparisons"][0]["verdict"] == "better"
    assert set(facts) == {f.name for f in dataclasses.fields(Report)} | {"version", "conclusions"}


def one_against(verdict, role, a=0.9, b=0.8):
    scores = make_runs(8)
    found = compare(scores["CRF"], scores["specialist"], ("record", "f1"), names=("CRF", "specialist"), num_resamples=99)
    comparison = dataclasses.replace(found, verdict=verdict, a=a, b=b, numbers="0.8 to 0.9")
    return Report("t", "c", ("record", "f1"), (System("CRF", role, Estimate(a)),), (comparison,))


@pytest.mark.parametrize(
    ("verdict", "role", "expected"),
    [
        (
            "worse",
            "baseline",
            Conclusion("bad", "The baseline CRF wins: it is better than the specialist.", "0.8 to 0.9"),
        ),
        ("worse", "base", Conclusion("bad", "Its base (CRF) is better than the specialist.", "0.8 to 0.9")),
        ("better", "base", Conclusion("good", "The specialist is better than its base (CRF).", "0.8 to 0.9")),
        (
            "no difference shown",
            "baseline",
            Conclusion(
                "even",
                "The specialist is not shown to differ from the baseline CRF, though CRF scores higher.",
                "0.8 to 0.9",
            ),
        ),
    ],
)  # fmt: skip
def test_conclusions_are_plain(verdict, role, expected):
    report = one_against(verdict, role)
    assert conclude(report) == (expected,)
    assert expected.words in render(report)


def test_bad_news_comes_first():
    report = sample_report()
    worst = dataclasses.replace(report.comparisons[2], verdict="worse")
    tones = [c.tone for c in conclude(dataclasses.replace(report, comparisons=(*report.comparisons[:2], worst)))]
    assert tones == ["bad", "good", "good"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "–"), (0.42, "0.4 s"), (12.3, "12 s"), (59.7, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations_are_said_in_fitting_units(seconds, words):
    assert say_time(seconds) == words
