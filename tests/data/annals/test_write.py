"""The demo corpus: gold that parses, splits that share neither people nor templates nor near-copies."""

import itertools
import re
import unicodedata

import pytest

from whet.data.annals import clauses, names, offices
from whet.data.annals.write import ERAS, MAX_LENGTH, MIN_LENGTH, NearCopies, make, sample, spell, write

TAGGED = re.compile(
    r"(?:<O>(?P<office>[^<>]+)</O>(?P<gap>[^<>]*))?"
    r'<P event="(?P<event>\w+)">(?P<person>[^<>]+)</P>'
)
EVENT_CLAUSES = {
    name: {clause for event, group in templates.items() if event for clause in group}
    for name, templates in (("train", clauses.TRAIN), ("valid", clauses.VALID), ("test", clauses.TEST))
}


@pytest.fixture(scope="module")
def corpus():
    return make((2400, 300, 300), seed=7)


def people(passages):
    return [found["person"] for passage in passages for found in TAGGED.finditer(passage.tagged)]


def plain(tagged):
    return re.sub("<[^>]*>", "", tagged)


def test_same_seed_same_files_other_seed_other_files(tmp_path):
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        write(tmp_path / folder, 40, 10, 12, seed)
    read = {f: [(tmp_path / f / f"{s}.txt").read_bytes() for s in ("train", "valid", "test")] for f in "abc"}
    assert read["a"] == read["b"] != read["c"]
    assert [text.count(b"\n") for text in read["a"]] == [40, 10, 12]


def test_the_tags_are_whole_and_hold_known_events(corpus):
    for passage in itertools.chain(*corpus.values()):
        rest = TAGGED.sub("", passage.tagged)
        assert not re.search("[<>{}]", rest), passage.tagged  # no stray tag, no office without its person, no unfilled slot
        assert {found["event"] for found in TAGGED.finditer(passage.tagged)} <= set(clauses.EVENTS)
        assert MIN_LENGTH <= len(passage.text) <= MAX_LENGTH
        assert passage.text == unicodedata.normalize("NFC", passage.text) and "\n" not in passage.text


def test_an_office_stands_at_most_four_characters_before_its_person(corpus):
    gaps = [len(f["gap"]) for p in itertools.chain(*corpus.values()) for f in TAGGED.finditer(p.tagged) if f["office"]]
    assert max(gaps) <= 4
    assert min(gaps) == 0 < sum(gap > 0 for gap in gaps)  # some do not stand right before it


def test_where_a_name_ends_is_no_guess(corpus):
    after = {match[1] for p in itertools.chain(*corpus.values()) for match in re.finditer("</P>(.)", p.tagged)}
    assert after
    assert not after & names.GIVEN_CHARACTERS


def test_no_person_is_in_two_splits(corpus):
    train, valid, test = (people(corpus[split]) for split in ("train", "valid", "test"))
    assert len({*train, *valid, *test}) == len(train) + len(valid) + len(test)  # not even twice in one split
    assert len(train) > 2400


def test_templates_are_split(corpus):
    for one, other in itertools.combinations(EVENT_CLAUSES, 2):
        assert not EVENT_CLAUSES[one] & EVENT_CLAUSES[other]
    assert sum(map(len, EVENT_CLAUSES.values())) >= 60
    for split, passages in corpus.items():
        used = {template for passage in passages for template in passage.templates}
        own = {clause for group in getattr(clauses, split.upper()).values() for clause in group}
        assert used <= own | ({clauses.SHORT_DEATH} if split == "train" else set())
        assert len(used) > 0.9 * len(own)


def test_templates_of_test_are_not_templates_of_train_with_a_word_changed():
    def bare(template):
        return re.sub(r"[\W_]+", "", re.sub(r"\{.*?\}", "", template))

    train = {bare(clause) for clause in EVENT_CLAUSES["train"]}
    for split in ("valid", "test"):
        same = [clause for clause in EVENT_CLAUSES[split] if len(bare(clause)) > 2 and bare(clause) in train]
        assert not same


def test_no_near_copies_between_splits(corpus):
    def grams(text):
        return {text[i : i + 3] for i in range(len(text) - 2)}

    train = [grams(passage.text) for passage in corpus["train"]]
    for passage in corpus["test"][::5]:
        mine = grams(passage.text)
        assert max(len(mine & other) / len(mine | other) for other in train) < 0.7


def test_near_copies_finds_what_brute_force_finds():
    texts = [plain(line) for line in sample(3, 60)]
    texts += [text[:-4] + "甲乙丙。" for text in texts[::2]] + [text.replace("，", "、") for text in texts[1::2]]
    near, taken = NearCopies(0.6), []
    for text in texts:
        letters = re.sub(r"\W", "", text)
        mine = {letters[i : i + 3] for i in range(len(letters) - 2)}
        is_new = all(len(mine & other) / len(mine | other) < 0.6 for other in taken)
        assert near.take(text) == is_new
        taken += [mine] * is_new
    assert 60 <= len(taken) < 120


def test_a_share_has_no_official_and_those_have_no_tags(corpus):
    for passages in corpus.values():
        without = [passage for passage in passages if not people([passage])]
        assert 0.08 < len(without) / len(passages) < 0.22
        assert all(passage.tagged == passage.text for passage in without)


def test_some_offices_of_test_are_new(corpus):
    def said(split):
        return [f["office"] for p in corpus[split] for f in TAGGED.finditer(p.tagged) if f["office"]]

    seen, test = set(said("train")), said("test")
    assert 0.08 < sum(office not in seen for office in test) / len(test) < 0.25
    assert "少師" in seen
    assert sum(map(len, offices.OFFICES.values())) >= 150


def test_people_without_an_office_are_in_every_split(corpus):
    for passages in corpus.values():
        found = [found for passage in passages for found in TAGGED.finditer(passage.tagged)]
        assert 0.08 < sum(not f["office"] for f in found) / len(found) < 0.35


def test_the_seed_sentence_is_new_but_its_pattern_is_not(corpus):
    text = "".join(passage.text for passage in itertools.chain(*corpus.values()))
    assert "蹇" not in text
    assert "蹇" not in names.SURNAMES + names.RARE_SURNAMES
    pattern = re.compile(rf'^(?:{"|".join(ERAS)})[元一二三四五六七八九十]+年，<O>[^<>]+</O><P event="Death">[^<>]+</P>卒。$')
    assert sum(bool(pattern.match(passage.tagged)) for passage in corpus["train"]) >= 30


def test_numbers_are_spelled():
    assert [spell(n) for n in (1, 9, 10, 11, 20, 47)] == ["一", "九", "十", "十一", "二十", "四十七"]


def test_given_characters_are_many():
    assert len(names.GIVEN_CHARACTERS) >= 300
    assert any(ord(character) > 0xFFFF for character in names.GIVEN_CHARACTERS)
