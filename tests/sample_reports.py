"""Made-up examples, scores and reports, for tests of what is shown of them."""

import functools
import math
import random

from whet.evaluate.acceptance import AcceptSettings
from whet.evaluate.calibration import Calibration, Curve, HeldOut
from whet.evaluate.compare import compare
from whet.evaluate.outcomes import Outcome
from whet.evaluate.report import (
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
)
from whet.evaluate.shown import show
from whet.evaluate.statistics import Interval
from whet.evaluate.sureness import Claim, Claims, assess
from whet.records import Counts, Example, Score, Span, Value
from whet.tasks.base import Evidence, RecordEvidence

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


def make_claims(num=600, seed=3):
    """Made-up records of a model that is surer than it is right."""
    chance, found = random.Random(seed), []
    for place in range(num):
        odds = chance.gauss(3.5, 2)
        raw = 1 / (1 + math.exp(-odds))
        parts = {name: Evidence(math.log(raw) / 2, math.log(raw) / 2, 2) for name in ("name", "rank")}
        rights = {name: chance.random() < (1 / (1 + math.exp(1.5 - 0.8 * odds))) ** 0.5 for name in parts}
        record = {"name": Value("a"), "rank": Value("b") if place % 5 else None}
        evidence = RecordEvidence(Evidence(0.0, 0.0, 0), parts, Evidence(math.log(raw), math.log(raw) / 2, 4))
        found.append(Claim(f"g{place // 3}", record, evidence, raw, Outcome(all(rights.values()), rights)))
    return Claims(tuple(found), num // 2, True)


@functools.cache
def sample_sure():
    curve = Curve("platt", 600, 420, (0.8, 0.0, 0.0, 0.0), -1.5)
    held_out = tuple(
        HeldOut(curve.of([claim.evidence.whole])[0], claim.outcome.is_right, claim.group) for claim in make_claims(seed=4).found
    )
    fields = {name: Curve("logistic", 600, 500, (0.9, 0.1, 0.0, -0.2), -0.4) for name in ("name", "rank")}
    taught = Calibration(fields, curve, num_examples=300, held_out=held_out).with_acceptance(AcceptSettings(precision=0.9))
    return assess(taught, make_claims(), ("name", "rank"), 0.95)


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
        sure=sample_sure(),
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
            rates={"unread": 0.0, "error": 0.0}, rate_intervals={"unread": Interval(0.0, 0.016)},
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
