"""Dealing out, and finding leaks: planted ones are found, whet's own splits have none by an independent check."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from whet.data.clean import gold_of, normalised, question_of
from whet.data.near import NearTexts, ngrams
from whet.data.split import KINDS, SplitSettings, assign, find_leaks, join, join_near, move_to_train, wanted_splits
from whet.data.spool import TEST, TRAIN, UNDECIDED, VALID, Spool
from whet.records import Example, Value

CHARS = [char for code in range(0x4E00, 0x4E00 + 400) if normalised(char := chr(code)) == char]  # none is Traditional


def random_text(rng, length=40):
    return "".join(rng.choices(CHARS, k=length))


def example(number, text, group="", category="", negative=False):
    records = () if negative else ({"name": Value("甲")},)
    return Example(f"e{number}", text, f"f:{number}", group or f"g{number}", category, records)


class Corpus:
    """Examples with their numbers and an index of their texts."""

    def __init__(self, folder, examples, given=None, published=()):
        spool = Spool(folder)
        for each, split in zip(examples, given or [UNDECIDED] * len(examples), strict=True):
            question = question_of(each)
            spool.add(
                each, question, normalised(question), gold_of(each),
                given=split, published=split in published, source=0, num_tokens=0,
            )  # fmt: skip
        self.examples = examples
        self.rows = spool.close_writing()
        keys = {int(key): spool.key(row) for row, key in enumerate(self.rows.key)}
        spool.remove()
        self.near = NearTexts(len(keys), lambda key: ngrams(keys[key], 3, 5), 0.8)

    def split(self, **said):
        wanted = SplitSettings(**said)
        together = self.near if wanted.keep_near_together else None
        self.clusters = join(self.rows, together, wanted.group_by == "group")
        return assign(self.rows, self.clusters, wanted)

    def leaks(self, labels, by_group=True):
        found = find_leaks(self.rows, np.array(labels, np.int8), self.near, by_group)
        return {
            (int(row), int(partner), KINDS[kind])
            for row, partner, kind in zip(found.rows, found.partners, found.kinds, strict=True)
        }


def leaks_by_hand(examples, labels, threshold):
    """Pairs in two splits with the same letters, the same group, or sets of trigrams that are near."""
    letters = ["".join(filter(str.isalnum, each.text)) for each in examples]
    grams = [{text[at : at + 3] for at in range(len(text) - 2)} for text in letters]
    return [
        (i, j)
        for i, j in itertools.combinations(range(len(examples)), 2)
        if labels[i] != labels[j]
        and (
            letters[i] == letters[j]
            or examples[i].group == examples[j].group
            or (grams[i] and len(grams[i] & grams[j]) >= threshold * len(grams[i] | grams[j]))
        )
    ]


@st.composite
def corpora(draw_):
    """Texts with copies, copies with other punctuation, near copies, and shared groups."""
    rng = random.Random(draw_(st.integers(0, 10**6)))
    examples = []
    for _ in range(draw_(st.integers(3, 40))):
        text = list(random_text(rng, rng.randint(2, 60)))
        for _ in range(rng.choice([1, 1, 1, 2, 4])):
            changed = list(text)
            for _ in range(rng.choice([0, 0, 1, 2])):
                changed[rng.randrange(len(changed))] = rng.choice([*CHARS, "，", "。"])
            group = f"shared{rng.randint(0, 5)}" if rng.random() < 0.2 else ""
            examples.append(example(len(examples), "".join(changed), group))
    rng.shuffle(examples)
    return examples


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(corpora(), st.integers(0, 99))
def test_own_splits_never_leak(tmp_path, examples, seed):
    corpus = Corpus(tmp_path, examples)
    labels = corpus.split(valid=0.2, test=0.2, seed=seed)
    assert set(labels) <= {TRAIN, VALID, TEST}
    assert not corpus.leaks(labels)
    # MinHash may miss one pair in a thousand at the threshold itself, none in a billion at 0.9
    assert not leaks_by_hand(examples, labels, 0.9)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(corpora(), st.integers(0, 10**6))
def test_leaks_of_any_split_are_those_found_by_hand_and_can_be_moved(tmp_path, examples, seed):
    rng = random.Random(seed)
    labels = np.array([rng.randrange(3) for _ in examples], np.int8)
    corpus = Corpus(tmp_path, examples, labels.tolist())
    found = corpus.leaks(labels)
    sure, possible = leaks_by_hand(examples, labels, 0.9), leaks_by_hand(examples, labels, 0.8)
    assert {max(pair, key=lambda row: labels[row]) for pair in sure} <= {row for row, _, _ in found}
    assert {tuple(sorted(leak[:2])) for leak in found} <= set(possible)
    clusters = join(corpus.rows, corpus.near, by_group=True)
    leaks = find_leaks(corpus.rows, labels, corpus.near, by_group=True)
    moved = move_to_train(corpus.rows, labels, leaks, clusters)
    assert moved >= len(found)
    assert not leaks_by_hand(examples, labels, 0.9)
    assert not corpus.leaks(labels)


def test_planted_leaks_are_found_under_their_kind(tmp_path):
    text = "宣德九年，少師蹇義卒於京師，上輟朝三日，遣官諭祭，命有司治喪葬。"
    other = random_text(random.Random(1))
    examples = [
        example(0, text, "annals"), example(1, other),
        example(2, text), example(3, text.replace("，", "、")),
        example(4, "宣德九年，少师蹇义卒于京师，上辍朝三日，遣官谕祭，命有司治丧葬。"),
        example(5, text[:-3] + "。"), example(6, "毫不相干", "annals"), example(7, random_text(random.Random(2))),
    ]  # fmt: skip
    labels = [TRAIN, TRAIN, VALID, VALID, TEST, TEST, TEST, TEST]
    corpus = Corpus(tmp_path, examples, labels)
    assert corpus.leaks(labels) == {
        (2, 0, "exact"), (3, 0, "normalised"), (4, 0, "normalised"), (5, 0, "near"), (6, 0, "group"),
    }  # fmt: skip
    assert (6, 0, "group") not in corpus.leaks(labels, by_group=False)


def test_a_leak_between_valid_and_test_counts_too(tmp_path):
    examples = [example(0, "甲乙丙丁"), example(1, "甲乙丙丁"), example(2, "戊己庚辛")]
    assert Corpus(tmp_path, examples, [VALID, TEST, TRAIN]).leaks([VALID, TEST, TRAIN]) == {(1, 0, "exact")}


def test_short_texts_leak_only_when_equal(tmp_path):
    corpus = Corpus(tmp_path, [example(0, "甲乙"), example(1, "甲丙"), example(2, "甲乙。")], [TRAIN, TEST, TEST])
    assert corpus.leaks([TRAIN, TEST, TEST]) == {(2, 0, "normalised")}


@pytest.mark.parametrize("size", [1, 3])
def test_shares_are_met_and_groups_stay_whole(tmp_path, size):
    rng = random.Random(4)
    examples = [example(at, random_text(rng), f"group{at // size}") for at in range(600)]
    labels = Corpus(tmp_path, examples).split(valid=0.1, test=0.2)
    assert abs((labels == VALID).sum() - 60) < size
    assert abs((labels == TEST).sum() - 120) < size
    assert all(len(set(labels[at : at + size])) == 1 for at in range(0, 600, size))


def test_group_by_text_ignores_the_groups(tmp_path):
    rng = random.Random(4)
    examples = [example(at, random_text(rng), "all") for at in range(50)]
    assert set(Corpus(tmp_path, examples).split(group_by="text")) == {TRAIN, VALID, TEST}


def test_the_split_depends_on_ids_and_seed_not_on_the_order(tmp_path):
    rng = random.Random(4)
    examples = [example(at, random_text(rng)) for at in range(200)]

    def split(examples, seed):
        labels = Corpus(tmp_path, examples).split(seed=seed)
        return {each.id: int(label) for each, label in zip(examples, labels, strict=True)}

    assert split(examples, 1) == split(examples[::-1], 1)
    assert split(examples, 1) != split(examples, 2)


@pytest.mark.parametrize("by", ["category", "has_records"])
def test_strata_keep_their_shares(tmp_path, by):
    rng = random.Random(4)
    rare = np.arange(600) % 10 == 0
    examples = [
        example(at, random_text(rng), category="rare" if rare[at] else "usual", negative=bool(rare[at])) for at in range(600)
    ]
    labels = Corpus(tmp_path, examples).split(valid=0.1, test=0.1, stratify_by=by)
    for split in (VALID, TEST):
        assert (labels[rare] == split).sum() == 6
        assert (labels[~rare] == split).sum() == 54


def test_many_small_strata_fill_the_shares_together(tmp_path):
    rng = random.Random(4)
    examples = [example(at, random_text(rng), category=f"c{at // 4}") for at in range(400)]
    labels = Corpus(tmp_path, examples).split(valid=0.1, test=0.1, stratify_by="category")
    assert [(labels == split).sum() for split in (VALID, TEST)] == [40, 40]


def test_a_handful_still_gives_each_split_one(tmp_path):
    rng = random.Random(4)
    labels = Corpus(tmp_path, [example(at, random_text(rng)) for at in range(4)]).split()
    assert sorted(labels) == [TRAIN, TRAIN, VALID, TEST]


@pytest.mark.parametrize(
    ("given_splits", "published", "expected"),
    [
        ({TRAIN}, (), {TRAIN, VALID}),
        ({TRAIN}, (TRAIN,), {TRAIN}),
        ({TRAIN, TEST}, (TEST,), {TRAIN, VALID, TEST}),
        ({UNDECIDED, TEST}, (), {TRAIN, VALID, TEST}),
        ({TEST}, (), {TEST}),
        ({TRAIN, VALID, TEST}, (), {TRAIN, VALID, TEST}),
    ],
)
def test_given_splits_stay_and_the_missing_ones_are_taken(tmp_path, given_splits, published, expected):
    rng = random.Random(4)
    given_ = sorted(given_splits) * 60
    corpus = Corpus(tmp_path, [example(at, random_text(rng)) for at in range(len(given_))], given_, published)
    labels = corpus.split(valid=0.1, test=0.1)
    assert set(labels) == expected == set(wanted_splits(corpus.rows, SplitSettings())[1])
    kept = np.array(given_)
    for split in (VALID, TEST):
        assert (labels[kept == split] == split).all()
        if split in given_splits:
            assert (kept[labels == split] == split).all()
    if TRAIN in given_splits:
        assert not (labels[kept == TRAIN] == TEST).any()


def test_undecided_rows_follow_their_text_into_a_given_split_unless_it_is_published(tmp_path):
    rng = random.Random(4)
    texts = [random_text(rng) for _ in range(40)]
    examples = [example(at, text) for at, text in enumerate([*texts, *texts[:3], texts[5] + "戊"])]
    given_ = [TEST] * 10 + [UNDECIDED] * 34
    assert (Corpus(tmp_path, examples, given_).split()[40:] == TEST).all()
    assert (Corpus(tmp_path, examples, given_, published=(TEST,)).split()[40:] == TRAIN).all()


def test_published_leaks_are_reported_only_and_never_moved(tmp_path):
    examples = [example(0, "甲乙丙丁戊"), example(1, "甲乙丙丁戊"), example(2, "甲乙丙丁戊")]
    labels = np.array([TRAIN, VALID, TEST], np.int8)
    corpus = Corpus(tmp_path, examples, labels.tolist(), published=(TEST,))
    leaks = find_leaks(corpus.rows, labels, corpus.near, by_group=True)
    assert leaks.rows.tolist() == [1, 2]
    assert leaks.reported_only.tolist() == [False, True]
    assert move_to_train(corpus.rows, labels, leaks, join(corpus.rows, corpus.near, by_group=True)) == 1
    assert labels.tolist() == [TRAIN, TRAIN, TEST]


def test_without_near_groups_the_check_still_sees_near_leaks(tmp_path):
    rng = random.Random(4)
    texts = [random_text(rng) for _ in range(60)]
    corpus = Corpus(tmp_path, [example(at, text) for at, text in enumerate([*texts, *(text + "終" for text in texts)])])
    leaks = corpus.leaks(corpus.split(keep_near_together=False, valid=0.3, test=0.3))
    assert len(leaks) > 10
    assert {kind for _, _, kind in leaks} == {"near"}
    join_near(corpus.rows, corpus.clusters, corpus.near)
    assert not corpus.leaks(assign(corpus.rows, corpus.clusters, SplitSettings(valid=0.3, test=0.3)))


def test_shares_must_leave_some_for_train():
    with pytest.raises(ValueError, match="train needs some"):
        SplitSettings(valid=0.5, test=0.5)
