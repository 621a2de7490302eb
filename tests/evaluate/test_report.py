"""The report: self-contained, escaped, well-formed, honest; and the marks and charts in it."""

import dataclasses
import html.parser
import json
import math
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.evaluate.charts import draw_bars, draw_losses, round_ticks
from whet.evaluate.compare import compare
from whet.evaluate.report import (
    Conclusion,
    Estimate,
    FieldScore,
    LeakCount,
    LeakPair,
    Losses,
    Piece,
    Proof,
    Report,
    SettingRow,
    Split,
    Stage,
    System,
    conclude,
    metrics_json,
    render,
    say_time,
    write_report,
)
from whet.evaluate.shown import Mark, ShownExample, cut, draw, line_up, show
from whet.evaluate.statistics import Interval
from whet.records import Counts, Example, Score, Span, Value

VOID = {"meta", "wbr", "link", "br", "hr", "img", "input"}
TEXTS = (
    ("宣德九年，少師蹇義卒。", (("蹇義", "少師"),), (("蹇義", "少師"),)),
    (
        "丁亥，升行在監察御史程富為行在大理寺左少卿，命給事中李蕡往諭。",
        (("程富", "行在監察御史"), ("李蕡", "給事中")),
        (("程富", "行在大理寺左少卿"), ("李蕡", "給事中")),
    ),
    (
        "戶部尚書夏原吉、工部侍郎周忱奏：蘇松諸府水患，乞蠲其租。從之。",
        (("夏原吉", "戶部尚書"), ("周忱", "工部侍郎")),
        (("夏原吉", "戶部尚書"),),
    ),
    ("是日，皇帝御奉天門，百官朝賀如儀。", (), ()),
)


def make_example(text, records):
    rows = []
    for name, rank in records:
        at, rank_at = text.index(name), text.index(rank)
        rows.append({"name": Value(name, Span(at, at + len(name))), "rank": Value(rank, Span(rank_at, rank_at + len(rank)))})
    return Example(f"annals-{len(text):04}", text, "annals.jsonl:1", "g", records=tuple(rows))


def make_score(example, said, status="read", **more):
    gold = [{name: value.text for name, value in row.items()} for row in example.records]
    rows = [{"name": name, "rank": rank} for name, rank in said]
    right = sum(row in gold for row in rows)
    detail = {"records": rows} if status == "read" else {"reason": "not JSON"}
    return Score(example.id, status, {"record": Counts(right, len(rows) - right, len(gold) - right)}, detail=detail, **more)


def make_runs(num=160):
    """Four made-up systems over the same examples."""
    chance = random.Random(0)
    runs = {}
    for name, share in (("base", 0.0), ("dictionary", 0.31), ("CRF", 0.82), ("specialist", 0.93)):
        runs[name] = []
        for place in range(num):
            gold = place % 4
            found = sum(chance.random() < share for _ in range(gold))
            extra = int(chance.random() < (0.06 if name == "specialist" else 0.3))
            runs[name].append(Score(f"t{place}", "read", {"record": Counts(found, extra, gold - found)}))
    return runs


def sample_report():
    runs = make_runs()
    comparisons = tuple(
        compare(runs[name], runs["specialist"], ("record", "f1"), names=(name, "specialist"), num_resamples=999)
        for name in ("base", "dictionary", "CRF")
    )
    roles = {"base": "base", "specialist": "specialist"}
    systems = []
    for name, scores in runs.items():
        whole = sum((score.counts["record"] for score in scores), Counts())
        near = {
            field: FieldScore(min(1, whole.precision + lift), min(1, whole.recall + lift), min(1, whole.f1 + lift), interval)
            for field, lift, interval in (("name", 0.03, Interval(0.91, 0.97)), ("rank", 0.01, None))
        }
        systems.append(
            System(
                name, roles.get(name, "baseline"),
                Estimate(whole.f1, Interval(max(0, whole.f1 - 0.05), min(1, whole.f1 + 0.04)), len(scores)),
                Estimate(whole.precision, Interval(max(0, whole.precision - 0.05), min(1, whole.precision + 0.04))),
                Estimate(whole.recall, Interval(max(0, whole.recall - 0.05), min(1, whole.recall + 0.04))),
                {"unread": 0.98 if name == "base" else 0.006, "ungrounded": 0.0, "truncated": 0.013, "error": 0.0},
                {"base": 64.2, "dictionary": 0.02, "CRF": 0.31}.get(name, 38.0), len(scores), near,
            )
        )  # fmt: skip
    chance = random.Random(1)
    train = tuple((step, 2.6 * math.exp(-step / 90) + 0.09 + chance.random() * 0.12) for step in range(1, 701))
    valid = tuple((step, 2.5 * math.exp(-step / 95) + 0.1 + step / 9000) for step in range(0, 701, 50))
    examples = [make_example(text, gold) for text, gold, _ in TEXTS]
    shown = tuple(show(e, make_score(e, said)) for e, (_, _, said) in zip(examples, TEXTS, strict=True))
    return Report(
        "Court annals: names and offices", "2025-03-02 14:05, whet 0.1.0", ("record", "f1"), tuple(systems),
        comparisons,
        (
            ("recipe", "sha256 5f2b7c0e9a1d" + "4e" * 26), ("data", "sha256 " + "9b" * 32),
            ("base", "embedded, 6.5 M parameters"), ("adapter", "sha256 " + "3c" * 32),
            ("code", "whet 0.1.0, commit ae78af4"), ("seeds", "data 0, train 0, test 0"),
            ("machine", "Linux x86_64, 2 cores, torch 2.9 on CPU"),
        ),
        (
            Stage("read from the sources", 4_200), Stage("readable", 4_196, "4 bad rows, listed in rejects.jsonl"),
            Stage("after cleaning", 3_961, "201 exact duplicates, 34 near duplicates"), Stage("in train", 3_380),
            Stage("in valid", 281), Stage("in test", 300),
        ),
        (Split("train", 3_380, 5_122, 602, 402_113), Split("valid", 281, 430, 49, 33_002),
         Split("test", 300, 461, 55, 35_740)),
        (LeakCount("train", "test", "exact", 0), LeakCount("train", "test", "near", 1),
         LeakCount("train", "valid", "near", 0)),
        (LeakPair("train, annals.jsonl:12", "test, annals.jsonl:3999", "near", TEXTS[0][0],
                  TEXTS[0][0].replace("，", "、"), 0.93),),
        (
            Proof("the mask covers the answer and its end of turn, nothing else", True, "3,380 rows"),
            Proof("no answer is cut", True, "longest row 212 of 512 tokens"),
            Proof("the weights moved", True, "norm of B 0 → 3.41"),
            Proof("the adapter read again gives the same validation loss", False, "0.1310 against 0.1312"),
        ),
        (
            Piece("<|im_start|>user\n从下文中提取记录，输出 JSON List，没有则输出 []。\nname\nrank\n\n", False),
            Piece("宣德九年，少師蹇義卒。<|im_end|>\n<|im_start|>assistant\n", False),
            Piece('[{"name":"蹇義","rank":"少師"}]<|im_end|>', True), Piece("\n", False),
        ),
        Losses(train, valid, 350), examples=shown,
        settings=(
            SettingRow("train.learning_rate", "0.0004", False, "Peak step size of AdamW."),
            SettingRow("train.rank", "16", True, "Rank of the LoRA matrices."),
            SettingRow("data.sources.0.path", '"../shared/annals/a-rather-long-file-name.csv"', False,
                       "Where the corpus lies."),
            SettingRow("evaluate.max_examples", "null", True, "Most examples; null asks all."),
        ),
    )  # fmt: skip


def choice_report():
    chance = random.Random(2)
    runs = {
        name: [
            Score(f"q{i}", "read", right=chance.random() < share, category=("history", "law", "physics")[i % 3])
            for i in range(240)
        ]
        for name, share in (("base", 0.27), ("specialist", 0.45))
    }
    comparison = compare(runs["base"], runs["specialist"], ("accuracy", "accuracy"), names=("base", "specialist"))
    systems = tuple(
        System(
            name, role, Estimate(found, Interval(found - 0.06, found + 0.06), 240), seconds=211.0, num_asked=240,
            rates={"unread": 0.0, "error": 0.0},
            categories={
                c.name: Estimate(c.a if role == "base" else c.b, None, c.num_pairs) for c in comparison.categories
            },
            letters={"A": 0.71, "B": 0.1, "C": 0.1, "D": 0.09} if role == "base" else {"A": 0.25, "B": 0.4, "C": 0.35},
        )
        for name, role, found in (("base", "base", comparison.a), ("specialist", "specialist", comparison.b))
    )  # fmt: skip
    return Report(
        "Choice questions", "2025-03-02", ("accuracy", "accuracy"), systems, (comparison,),
        letters={"A": 0.24, "B": 0.26, "C": 0.25, "D": 0.25}, best_constant=("B", 0.26), num_distinct=240,
    )  # fmt: skip


class Outline(html.parser.HTMLParser):
    """Checks that tags are balanced, and keeps the tags, attributes and texts."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)


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
        "行在大理寺左少卿", "98.0 %", "Nothing to find, and nothing said.",
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


@settings(max_examples=60, deadline=None)
@given(
    st.text("甲乙丙", max_size=12),
    st.lists(st.builds(Mark, st.integers(-2, 14), st.integers(-2, 14), st.sampled_from(["right", "wrong"]), st.just("f"))),
)
def test_a_text_cut_at_its_marks_is_still_the_text(text, marks):
    pieces = cut(text, marks)
    assert "".join(piece.text for piece in pieces) == text
    at = 0
    for piece in pieces:
        for place in range(at, at + len(piece.text)):
            assert [m for m in marks if m.start <= place < m.end] == list(piece.marks)
        at += len(piece.text)


def test_marks_say_what_was_right_missed_and_wrong():
    text, gold, said = TEXTS[1]
    shown = show(make_example(text, gold), make_score(make_example(text, gold), said))
    assert shown.kind == "wrong"
    assert {(text[m.start : m.end], m.outcome) for m in shown.marks} == {
        ("程富", "right"), ("行在監察御史", "missed"), ("行在大理寺左少卿", "wrong"), ("李蕡", "right"),
        ("給事中", "right"),
    }  # fmt: skip
    assert [outcome for outcome, _ in line_up(shown.gold, shown.said)] == ["missed", "right", "wrong"]


def test_what_could_not_be_read_says_so_and_what_is_joined_wrongly_too():
    text, gold, _ = TEXTS[2]
    example = make_example(text, gold)
    unread = show(example, make_score(example, (), "unread"))
    assert (unread.kind, unread.note) == ("wrong", "The reply could not be read: not JSON")
    assert {mark.outcome for mark in unread.marks} == {"missed"}
    crossed = show(example, make_score(example, (("夏原吉", "工部侍郎"), ("周忱", "戶部尚書"))))
    assert crossed.kind == "wrong"
    assert {mark.outcome for mark in crossed.marks} == {"right"}
    assert "joined to other records" in crossed.note


def test_a_value_said_once_too_often_is_marked_where_it_stands_again():
    example = make_example("少師蹇義，蹇義卒。", (("蹇義", "少師"),))
    shown = show(example, make_score(example, (("蹇義", "少師"), ("蹇義", "少師"))))
    assert [(m.start, m.outcome) for m in shown.marks if m.field == "name"] == [(2, "right"), (5, "wrong")]


def test_choice_answers_are_shown_by_letter():
    example = Example("q", "1 + 1?", "q:1", "q", choices=("1", "2"), answer=1)
    score = Score("q", "read", right=False, detail={"letter": "A", "gold": "B"})
    shown = show(example, score, "accuracy")
    assert (shown.kind, shown.gold, shown.said) == ("wrong", ({"answer": "B"},), ({"answer": "A"},))


def test_the_draw_takes_every_kind_in_turn_and_no_errors():
    scores = [Score(f"r{i}", "read", {"record": Counts(1, 0, 0)}) for i in range(50)]
    scores += [Score(f"w{i}", "read", {"record": Counts(0, 1, 0)}) for i in range(3)]
    scores += [Score(f"m{i}", "read", {"record": Counts(0, 0, 1)}) for i in range(9)]
    scores += [Score("e0", "error")]
    ids = draw(scores, "record", 20, seed=1)
    assert [sum(id_[0] == kind for id_ in ids) for kind in "rwme"] == [9, 3, 8, 0]
    assert ids == draw(scores, "record", 20, seed=1) != draw(scores, "record", 20, seed=2)
    assert len(draw(scores, "record", 1000)) == 62


@settings(max_examples=60, deadline=None)
@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e4), st.integers(2, 6))
def test_ticks_are_few_round_and_reach_around(low, width, num):
    ticks = round_ticks(low, low + width, num)
    step = ticks[1] - ticks[0]
    assert ticks[0] <= low + 1e-6 * width
    assert ticks[-1] >= low + width - 1e-6 * width
    assert 2 <= len(ticks) <= num + 3
    digit = float(f"{step:.3e}".split("e")[0])
    assert digit in (1, 2, 5)


def test_the_loss_chart_stays_in_its_box_and_skips_what_is_no_number():
    train = [(step, 9.0 / step) for step in range(1, 1000)] + [(1000, math.nan)]
    chart = draw_losses(train, [(0, 9.0), (500, 0.02), (1000, 0.03)], 500)
    assert chart.is_log
    assert (chart.num_left_out, chart.steps_a_point) == (1, 4)
    places = [tuple(map(float, pair.split(","))) for pair in (chart.train_line + " " + chart.valid_line).split()]
    assert all(0 <= x <= 100 and 0 <= y <= 100 for x, y in places)
    assert all(0 <= tick.at <= 100 for tick in chart.x_ticks + chart.y_ticks)
    assert chart.best.label == "best: 0.02 at step 500"
    assert draw_losses([], [], None) is None
    assert draw_losses([(1, math.inf)], [], None) is None
    flat = draw_losses([(0, 0.0), (0, 0.0)], [], None)
    assert not flat.is_log


def test_bars_are_in_proportion():
    assert [bar.width for bar in draw_bars([("a", 200, ""), ("b", 50, ""), ("c", 0, "")])] == [100, 25, 0]
    assert [bar.width for bar in draw_bars([("a", 0, "")])] == [0]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "–"), (0.42, "0.4 s"), (12.3, "12 s"), (59.7, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations_are_said_in_fitting_units(seconds, words):
    assert say_time(seconds) == words
