"""The page and the Markdown of a comparison: well-formed, self-contained, escaped, bad news first, nothing invented."""

import re
from dataclasses import replace

import pytest
from outline import Outline
from sample_results import ASKED, choice_part, choice_questions, free_part, free_questions, write_suite

from whet.evaluate.results import Latency
from whet.evaluate.side_by_side import Question, Side, put_side_by_side
from whet.evaluate.side_charts import conclude, draw_gains, draw_speed, say_bytes, say_points, say_seconds
from whet.evaluate.side_page import render, to_markdown
from whet.evaluate.votes import Ballot, Votes, count_votes

HOSTILE = '</script><img src=x onerror="alert(1)"> & | `x` \x00\ud800 {{ 7 * 7 }}'
QUESTIONS = choice_questions(60)
GENERAL = choice_questions(60, ("art_and_music", "sport"), "g")


def make(folder, label="tuned", **more):
    """Two systems: one that gains on law and loses on general, and is asked with other prompts."""
    sides = []
    for at, (name, skill, general) in enumerate((("base", 0.2, 0.7), (label, 0.8, 0.2))):
        asked = replace(ASKED, prompts="xy"[at] * 64)
        latency = Latency(None if at else 0.8, None, None, 40.0 + at, (90.0, 2.0)[at])
        where = folder / str(at)
        parts = [
            choice_part(where, "law", QUESTIONS, skill, 10 + at, asked=asked, latency=latency),
            choice_part(where, "general", GENERAL, general, 20 + at, role="general", latency=latency),
            free_part(where, "say", free_questions(20), skill, at),
        ]
        result = write_suite(where, name, parts, ("base", "adapter")[at], cost=(None, 0.5)[at])
        replies = {"law": {example.id: f"{HOSTILE} {name}" for example in QUESTIONS}}
        sides.append(Side(name, result, {part: result.scores(part) for part in result.parts}, replies))
    questions = {"law": {example.id: Question(HOSTILE, "gold & <b>", f"g{at // 3}") for at, example in enumerate(QUESTIONS)}}
    return put_side_by_side(sides, shows_differences=True, questions=questions, num_resamples=199)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return make(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def page(found):
    return render(found)


def test_the_page_is_balanced_and_its_links_lead_somewhere(page):
    outline = Outline(page)
    ids = [attrs["id"] for _, attrs in outline.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {attrs["href"][1:] for tag, attrs in outline.tags if tag == "a"} <= set(ids)
    assert {"scores", "tests", "gains", "beside", "agreement", "flips", "asked"} <= set(ids)


def test_nothing_is_loaded_and_nothing_runs(page):
    outline = Outline(page)
    assert not {"script", "img", "link", "iframe", "image", "use"} & {tag for tag, _ in outline.tags}
    assert not any("src" in attrs or any(name.startswith("on") for name in attrs) for _, attrs in outline.tags)
    assert "url(" not in page
    assert "default-src 'none'" in page


def test_texts_of_the_data_are_shown_as_they_are(page):
    text = "".join(Outline(page).texts)
    assert '</script><img src=x onerror="alert(1)"> & | `x`' in text
    assert "{{ 7 * 7 }}" in text
    assert not re.search("[\x00-\x08\ud800-\udfff]", page)


def test_what_differs_stands_before_the_verdicts_and_losses_before_gains(page, found):
    order = [page.index(words) for words in (
        "Not asked in the same way", "tuned has lost on general against base.", "tuned is better than base on law.",
        'id="scores"',
    )]  # fmt: skip
    assert order == sorted(order)
    assert [said.tone for said in conclude(found)] == ["bad", "good", "good"]
    assert f"Corrected for all {len(found.held)} tests" in conclude(found)[0].detail


def test_groups_are_said_wherever_a_test_went_by_them(page, found):
    law = next(held for held in found.held if held.part == "law")
    assert law.comparison.paired.num_groups == 20
    assert "60 paired examples in 20 groups" in law.comparison.words
    text = " ".join("".join(Outline(page).texts).split())
    assert "60 pairs in 20 groups" in text
    assert {category.paired.num_groups for category in law.categories} == {20}  # three in a row hold both categories
    assert "| 60 in 20 groups |" in to_markdown(found)
    assert "20 paired examples." in next(held for held in found.held if held.part == "say").comparison.words


def test_the_tables_hold_the_figures(page, found):
    text = " ".join("".join(Outline(page).texts).split())
    for side in found.sides:
        for part in side.result.parts.values():
            assert f"{part.value:.3f}" in text
    held = found.held[0]
    assert f"{held.turned.num_right} of {held.turned.num}" in text
    assert "13.4 MB" in text
    assert f"of {found.agreements[0].num}" in text


def test_the_gain_chart_places_dots_by_their_difference(found):
    general = next(held for held in found.held if held.part == "general")
    chart = draw_gains(general)
    whole, *rows = chart.rows
    assert whole.is_whole
    assert (whole.tone, whole.at < 50) == ("bad", True)
    assert [row.at for row in rows] == sorted(row.at for row in rows)
    assert all(row.low <= row.at <= row.high and row.low >= 0 and row.high <= 100 for row in chart.rows)
    scale = [(tick.at, float(tick.label.replace("−", "-"))) for tick in chart.ticks]
    limit = scale[-1][1]
    assert whole.at == pytest.approx(50 + 50 * 100 * general.comparison.paired.difference / limit, abs=0.01)
    assert scale[0] == (0.0, -limit)


def test_the_speed_chart_places_systems_by_time_and_quality(found):
    chart = draw_speed(found)
    base, tuned = chart.places
    assert chart.is_log
    assert tuned.x < base.x
    assert tuned.y < base.y  # further up
    still = [replace(side, result=replace(side.result, parts={
        name: replace(part, latency=Latency(None, None, None, None)) for name, part in side.result.parts.items()
    })) for side in found.sides]  # fmt: skip
    assert draw_speed(replace(found, sides=tuple(still))) is None
    assert "curve" not in [attrs.get("class") for _, attrs in Outline(render(replace(found, sides=tuple(still)))).tags]


def test_markdown_holds_the_same_verdicts_and_no_broken_table(found):
    text = to_markdown(found)
    assert "**tuned has lost on general against base.**" in text
    assert "Not asked in the same way" in text
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) >= 6
    for rows in tables:
        widths = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
        assert len(widths) == 1
    assert "<img" not in text.replace("\\<img", "")


def test_votes_are_said(found):
    votes = count_votes(Ballot("b", 0, 3, (), {"k": "left", "l": "right", "m": "tie"}), {"k", "l"}, ("base", "tuned"))
    assert isinstance(votes, Votes)
    voted = replace(found, votes=votes)
    for text in (" ".join(Outline(render(voted)).texts), to_markdown(voted)):
        assert "3 of 3 pairs read" in text


def test_a_part_without_a_score_is_said(tmp_path):
    parts = [choice_part(tmp_path / "a", "law", QUESTIONS, 0.5, 1)]
    failed = [replace(choice_part(tmp_path / "b", "law", QUESTIONS, 0.5, 1), value=None, interval=None)]
    sides = [
        Side(label, result := write_suite(tmp_path / label, label, own), {"law": result.scores("law")})
        for label, own in (("a", parts), ("b", failed))
    ]
    found = put_side_by_side(sides)
    assert "b has no score on law" in render(found)
    assert "b has no score on law" in to_markdown(found)


@pytest.mark.parametrize(("value", "words"), [(0.123, "+12.3"), (-0.05, "−5.0"), (0.0, "0.0"), (-0.0001, "0.0")])
def test_differences_are_said_in_points(value, words):
    assert say_points(value) == words


def test_sizes_and_times_are_said_in_fitting_units():
    assert [say_bytes(num) for num in (None, 0, 999, 13_400_000, 7 * 10**12)] == ["–", "0 B", "999 B", "13.4 MB", "7 TB"]
    assert [say_seconds(s) for s in (0.0, 0.0123, 1.5, 90)] == ["0 s", "12.3 ms", "1.5 s", "90 s"]
