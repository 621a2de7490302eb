"""Near-duplicates against brute force over sets of n-gram strings."""

import itertools
import random

import numpy as np
import pytest

from whet.data.near import MAX_BUCKET, Clusters, NearTexts, choose_bands, jaccard, ngrams, sketch

CHARS = [chr(code) for code in range(0x4E00, 0x4E00 + 600)]


def everything(left, right):
    return np.ones(len(left), np.bool_)


def grams_as_strings(text, size=3):
    return {text[at : at + size] for at in range(len(text) - size + 1)}


def brute_force(texts, threshold):
    sets = [grams_as_strings(text) for text in texts]
    return {
        (i, j)
        for i, j in itertools.combinations(range(len(texts)), 2)
        if sets[i] and sets[j] and len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= threshold
    }


def near_of(texts, threshold=0.8):
    return NearTexts(len(texts), lambda at: ngrams(texts[at], 3, 5), threshold)


def found_by(near):
    return {(min(i, j), max(i, j)) for i, j, _ in near.pairs(everything)}


def corpus(rng, num):
    """Random texts, most with copies that are changed in a few places."""
    texts = []
    while len(texts) < num:
        text = rng.choices(CHARS, k=rng.randint(3, 120))
        texts.append("".join(text))
        texts.append("".join(text[1:]))
        for _ in range(rng.randint(0, 3)):
            changed = list(text)
            for _ in range(rng.choice([0, 1, 2, 4, 6])):
                changed[rng.randrange(len(changed))] = rng.choice(CHARS)
            texts.append("".join(changed))
    return list(dict.fromkeys(texts))


@pytest.mark.integration
@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95])
def test_pairs_equal_those_of_brute_force(threshold):
    texts = corpus(random.Random(3), 500)
    wanted = brute_force(texts, threshold)
    found = found_by(near_of(texts, threshold))
    assert len(wanted) > 20
    assert found <= wanted
    assert len(found) >= 0.995 * len(wanted)


def test_similarity_is_the_exact_jaccard():
    left, right = "宣德九年少師蹇義卒於京師", "宣德九年少師蹇義卒於南京"
    sets = grams_as_strings(left), grams_as_strings(right)
    assert jaccard(ngrams(left, 3, 5), ngrams(right, 3, 5)) == len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_alphabetic_texts_take_longer_ngrams():
    assert len(ngrams("abcdefg", 3, 5)) == 3
    assert len(ngrams("甲乙丙丁戊己庚", 3, 5)) == 5


def test_texts_shorter_than_an_ngram_have_no_neighbours():
    texts = ["甲乙", "甲丙", "", "甲乙丙丁戊己庚辛壬癸子丑寅卯辰", "甲乙丙丁戊己庚辛壬癸子丑寅卯"]
    assert len(ngrams("甲乙", 3, 5)) == len(ngrams("", 3, 5)) == 0
    assert found_by(near_of(texts)) == {(3, 4)}


def test_signatures_estimate_the_similarity_without_bias():
    rng = random.Random(5)
    texts = corpus(rng, 300)
    grams = [ngrams(text, 3, 5) for text in texts]
    signatures, sizes = sketch(iter(grams), len(grams))
    assert sizes.tolist() == [len(each) for each in grams]
    errors = [
        (signatures[i] == signatures[j]).mean() - jaccard(grams[i], grams[j])
        for i, j in itertools.pairwise(range(len(texts)))
        if sizes[i] and sizes[j]
    ]
    assert abs(np.mean(errors)) < 0.01


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.9])
def test_bands_miss_few_pairs_at_the_threshold(threshold):
    bands, rows = choose_bands(threshold)
    assert bands * rows <= 128
    assert 1 - (1 - (1 - threshold**rows) ** bands) <= 1e-3


def test_a_giant_cluster_is_joined_with_few_comparisons():
    num = 20 * MAX_BUCKET
    shared = "".join(random.Random(1).choices(CHARS, k=200))
    texts = [shared + CHARS[at % 600] + CHARS[at // 600] for at in range(num)]
    near = near_of(texts)
    clusters = Clusters(num)
    asked = 0
    for i, j, _ in near.pairs(lambda left, right: clusters.names(left) != clusters.names(right)):
        clusters.join(i, j)
        asked += 1
    assert not clusters.names(np.arange(num)).any()
    assert asked < 2 * num
    assert near.num_capped == num


@pytest.mark.integration
def test_in_a_giant_cluster_each_text_meets_some_of_another_block():
    shared = "".join(random.Random(1).choices(CHARS, k=400))
    near = near_of([shared + chr(0xAC00 + at) for at in range(900)])
    pairs = near.pairs(lambda left, right: (left < 700) != (right < 700))
    assert {max(i, j) for i, j, _ in pairs} == set(range(700, 900))
    assert near.num_capped > 0


def test_clusters_are_named_by_their_smallest_member():
    clusters = Clusters(6)
    clusters.join(5, 3)
    clusters.join(3, 4)
    clusters.join(1, 0)
    assert clusters.names(np.arange(6)).tolist() == [0, 0, 2, 3, 3, 3]
