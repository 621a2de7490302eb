"""The baselines: grounded on any text, strong on what they saw, linked by the best rule that there is."""

import itertools
import re
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.data.annals.write import make
from whet.errors import InputError
from whet.evaluate.baselines import Crf, Dictionary
from whet.evaluate.composing import Found, Kind
from whet.evaluate.crf import decode, encode
from whet.evaluate.linking import MAX_GAP, Rule, best_rule, link, spans_of
from whet.evaluate.surroundings import BayesChoice
from whet.records import Counts, Example, Span, Value
from whet.tasks.extraction import FieldSettings, is_grounded, match

NER = Path(__file__).resolve().parents[2] / "../shared/data/chisiec/ner"
EVENTS = ("Appointment", "Military", "Diplomacy", "Disaster", "Death", "Other")
FIELDS = (
    FieldSettings(name="name"),
    FieldSettings(name="rank", nullable=True),
    FieldSettings(name="event", kind="choice", choices=EVENTS),
    FieldSettings(name="note", kind="free", nullable=True),
)
TYPES = (FieldSettings(name="text"), FieldSettings(name="type", kind="choice", choices=("PER", "LOC", "OFI", "BOOK")))
PIECE = re.compile(r'<O>(.*?)</O>|<P event="(.*?)">(.*?)</P>|([^<]+)')


def example(text, records):
    return Example("x", text, "x:1", "x", records=tuple(records))


def parse(tagged):
    text, records, office = "", [], None
    for rank, event, name, other in PIECE.findall(tagged):
        value = Value(rank or name, Span(len(text), len(text) + len(rank or name)))
        text += rank or name or other
        if rank:
            office = value
        if name:
            records.append({"name": value, "rank": office, "event": Value(event), "note": None})
            office = None
    return example(text, records)


def entity(text, start, end, kind):
    return {"text": Value(text[start:end], Span(start, end)), "type": Value(kind)}


@pytest.fixture(scope="module")
def annals():
    return {split: [parse(p.tagged) for p in passages] for split, passages in make((450, 0, 120), 5).items()}


@pytest.fixture(scope="module")
def crf(annals):
    return Crf().fit(annals["train"], FIELDS)


@pytest.fixture(scope="module", params=["dictionary", "crf"])
def fitted(request, annals, crf):
    return crf if request.param == "crf" else Dictionary().fit(annals["train"], FIELDS)


def counts(predictor, examples, name=None):
    def said(record):
        return tuple((value.text, value.span) if (value := record[f]) else None for f in ([name] if name else record))

    total = Counts()
    for each in examples:
        total += match([said(r) for r in each.records], [said(r) for r in predictor.predict(each.text)])
    return total


@pytest.mark.integration
def test_what_was_learnt_is_found_again(fitted, annals):
    assert counts(fitted, annals["train"], "name").recall > 0.9
    assert counts(fitted, annals["train"], "rank").recall > 0.9
    assert counts(fitted, annals["train"]).f1 > 0.7


@settings(max_examples=60, deadline=None)
@given(
    text=st.text(st.characters(exclude_categories=()), max_size=20)
    | st.lists(st.sampled_from(["少師", "蹇義", "卒。", "\0", "\ud800", " ", "：", "\\", "𠮷", "王某", "、"]), max_size=12).map(
        "".join
    )
)
def test_predictions_are_grounded_in_any_text(fitted, text):
    records = fitted.predict(text)
    for record in records:
        assert list(record) == ["name", "rank", "event", "note"]
        assert record["name"] and record["event"].text in EVENTS and record["event"].span is None
        assert record["note"] is None
        assert all(is_grounded(value, text) for key in ("name", "rank") if (value := record[key]))
    assert [r["name"].span.start for r in records] == sorted(r["name"].span.start for r in records)


def test_the_crf_beats_the_dictionary_on_new_people_and_templates(crf, annals):
    known = Dictionary().fit(annals["train"], FIELDS)
    for name in (None, "name", "rank"):
        assert counts(crf, annals["test"], name).f1 > counts(known, annals["test"], name).f1 + 0.1


def test_the_rule_of_the_generator_is_learnt(crf):
    assert crf.composer.rules == {"rank": Rule("before", 4, "once")}


@pytest.mark.integration
def test_fitting_twice_gives_the_same(annals):
    one, other = (Crf().fit(annals["train"][:60], FIELDS) for _ in range(2))
    assert all(one.predict(each.text) == other.predict(each.text) for each in annals["test"])


def f1_of(rule, golds, is_nullable):
    """The F1 of a rule, counted pair by pair."""
    total = Counts()
    for gold in golds:
        anchors, values = spans_of(gold)
        picks = link(anchors, values, rule)
        said = [(anchors[pick.anchor], values[pick.value]) for pick in picks]
        lone = set(range(len(anchors))) - {pick.anchor for pick in picks}
        total += match(list(Counter(gold).elements()), said + [(anchors[a], None) for a in lone] * is_nullable)
    return total.f1


def random_gold(random):
    cuts = sorted(random.sample(range(60), 2 * random.randint(1, 5)))
    spans = [Span(*pair) for pair in zip(cuts[::2], cuts[1::2], strict=True)]
    anchors, values = spans[::2], [*spans[1::2], None]
    return Counter((anchor, random.choice(values)) for anchor in anchors for _ in range(random.choice((1, 1, 2))))


@pytest.mark.parametrize("seed", range(6))
def test_no_rule_is_better_than_the_best_rule(seed):
    random = Random(seed)
    golds = [random_gold(random) for _ in range(5)]
    for is_nullable in (True, False):
        chosen = f1_of(best_rule(golds, is_nullable), golds, is_nullable)
        tried = itertools.product(("before", "after", "nearest"), range(MAX_GAP + 1), ("once", "shared", "repeat"))
        assert chosen == pytest.approx(max(f1_of(Rule(*rule), golds, is_nullable) for rule in tried))


def test_linking_by_hand():
    office, other = Span(0, 2), Span(5, 7)
    first, second = Span(2, 4), Span(8, 10)  # gaps: office-first 0, other-second 1, office-second 6, first-other 1
    assert link([first, second], [office, other], Rule("before", 20, "once")) == [(0, 0, 0), (1, 1, 1)]
    assert link([first, second], [office], Rule("before", 20, "once")) == [(0, 0, 0)]
    assert link([first, second], [office], Rule("before", 20, "shared")) == [(0, 0, 0), (6, 1, 0)]
    assert link([first, second], [office], Rule("before", 5, "shared")) == [(0, 0, 0)]
    assert link([first], [office, other], Rule("nearest", 20, "repeat")) == [(0, 0, 0), (1, 0, 1)]
    assert link([first], [office, other], Rule("after", 20, "once")) == [(1, 0, 1)]


def test_a_field_that_must_not_be_null_makes_no_record_without_it():
    def row(text, pairs):
        return example(
            text, [{"name": Value(text[a:b], Span(a, b)), "rank": Value(text[c:d], Span(c, d))} for a, b, c, d in pairs]
        )

    train = [row("少師甲乙卒", [(2, 4, 0, 2)]), row("少師丙丁卒", [(2, 4, 0, 2)])]
    for nullable, num in ((True, 1), (False, 0)):
        known = Dictionary().fit(train, (FieldSettings(name="name"), FieldSettings(name="rank", nullable=nullable)))
        assert len(known.predict("甲乙卒")) == num
        assert [r["rank"].text for r in known.predict("少師丙丁卒")] == ["少師"]


def test_the_dictionary_takes_the_longest_and_drops_what_is_mostly_no_entity():
    def row(text, *spans):
        return example(text, [entity(text, *span) for span in spans])

    train = [
        row("少師王文", (0, 2, "OFI"), (2, 4, "PER")),
        row("王文盛", (0, 3, "PER")),
        row("文曰文云", (0, 1, "PER")),
        row("文書"),
    ]
    known = Dictionary().fit(train, TYPES)
    assert known.finder.kinds.keys() == {
        "少師",
        "王文",
        "王文盛",
    }  # 文: one of three; 王文 inside 王文盛 does not count against it
    assert [(r["text"].text, r["type"].text) for r in known.predict("王文盛少師王文文")] == [
        ("王文盛", "PER"), ("少師", "OFI"), ("王文", "PER"),
    ]  # fmt: skip


def test_a_choice_beside_one_span_is_the_majority_type_of_the_string():
    text = "江江江"
    train = [example(text, [entity(text, 0, 1, "PER"), entity(text, 1, 2, "LOC"), entity(text, 2, 3, "LOC")])]
    assert [r["type"].text for r in Dictionary().fit(train, TYPES).predict("江")] == ["LOC"]


def test_a_free_field_takes_the_most_frequent_value():
    fields = (FieldSettings(name="name"), FieldSettings(name="place", kind="free", nullable=True))
    rows = [example("甲", [{"name": Value("甲", Span(0, 1)), "place": place}]) for place in (Value("京"), None, Value("京"))]
    for baseline in (Dictionary(), Crf()):
        assert baseline.fit(rows, fields).predict("甲") == ({"name": Value("甲", Span(0, 1)), "place": Value("京")},)


def test_nothing_to_learn_predicts_nothing_and_no_span_field_is_refused():
    for baseline in (Dictionary(), Crf()):
        assert baseline.fit([], FIELDS).predict("少師甲") == ()
        assert baseline.fit([example("少師", []), example("", [])], FIELDS).predict("少師甲") == ()
        with pytest.raises(InputError, match="needs a field of kind span"):
            baseline.fit([], (FieldSettings(name="note", kind="free"),))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(0, 2)), max_size=6))
def test_labels_and_back(steps):
    kinds, gold, at = [Kind("a"), Kind("b"), Kind("c")], [], 0
    for skip, length, kind in steps:
        gold.append(Found(Span(at + skip, at + skip + length), kinds[kind]))
        at += skip + length
    labels = encode(at, gold, {kind: number for number, kind in enumerate(kinds)})
    assert len(labels) == at
    assert [Found(span, kinds[number]) for span, number in decode(labels)] == gold


def test_broken_labels_give_only_whole_spans():
    assert list(decode(["B0", "I1", "E0", "O", "I0", "E0", "B0", "B0", "E0", "E0", "S1", "B1"])) == [
        (Span(7, 9), 0),
        (Span(10, 11), 1),
    ]


def test_bayes_against_sums_by_hand():
    rows = [("甲x", Span(1, 2), "A"), ("乙x", Span(1, 2), "B"), ("乙x", Span(1, 2), "B")]
    bayes = BayesChoice(rows)
    # seen "<甲": A 1/3 * (1+1)/(1+2) = 2/9, B 2/3 * (0+1)/(2+2) = 1/6; nothing seen: the prior says B
    assert bayes.choose("甲x", Span(1, 2)) == "A"
    assert bayes.choose("乙x", Span(1, 2)) == "B"
    assert bayes.choose("x", Span(0, 1)) == "B"
    assert BayesChoice([]).choose("x", Span(0, 1)) is None


@pytest.mark.integration
@pytest.mark.skipif(not NER.is_dir(), reason="the CHisIEC corpus is not beside this checkout (../shared/data/chisiec)")
@pytest.mark.filterwarnings("ignore")
def test_entity_f1_agrees_with_seqeval():
    from seqeval.metrics import f1_score
    from seqeval.scheme import IOBES

    def read(name, num):
        examples = []
        for block in (NER / name).read_text("utf-8").strip("\n").split("\n\n")[:num]:
            rows = [line.split("\t") for line in block.split("\n") if "\t" in line]
            text, records, start = "".join(row[0] for row in rows), [], 0
            for at, (_, label) in enumerate(rows):
                start = at if label[0] in "BS" else start
                if label[0] in "ES":
                    records.append(entity(text, start, at + 1, label[2:]))
            examples.append(example(text, records))
        return examples

    def labels(text, records):
        numbers = {Kind("text", choice): choice for choice in TYPES[1].choices}
        raw = encode(len(text), [Found(r["text"].span, Kind("text", r["type"].text)) for r in records], numbers)
        return [label if label == "O" else f"{label[0]}-{label[1:]}" for label in raw]

    test, fit = read("test.txt", 60), Crf().fit(read("train.txt", 60), TYPES)
    said = [fit.predict(each.text) for each in test]
    total = sum((match(each.records, records) for each, records in zip(test, said, strict=True)), Counts())
    reference = f1_score(
        [labels(each.text, each.records) for each in test],
        [labels(each.text, records) for each, records in zip(test, said, strict=True)],
        mode="strict", scheme=IOBES,
    )  # fmt: skip
    assert total.f1 == pytest.approx(reference)
    assert total.tp > 50 < total.fn  # enough of both for the agreement to mean something
