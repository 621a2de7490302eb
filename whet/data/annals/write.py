"""Writes the demo corpus: seeded court annals with gold inline tags; its splits share no person and no template."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from whet.data.annals import clauses
from whet.data.annals.names import Names
from whet.data.annals.offices import OfficePool, split_offices
from whet.storage import write_text

STEMS, BRANCHES, DIGITS = "甲乙丙丁戊己庚辛壬癸", "子丑寅卯辰巳午未申酉戌亥", "〇一二三四五六七八九"
ERAS = {
    "洪武": 31, "建文": 4, "永樂": 22, "洪熙": 1, "宣德": 10, "正統": 14, "景泰": 8, "天順": 8, "成化": 23, "弘治": 18,
    "正德": 16, "嘉靖": 45, "隆慶": 6, "萬曆": 47, "泰昌": 1, "天啟": 7, "崇禎": 17,
}  # fmt: skip
"""Era name to its last year."""
MONTHS = (
    *((month, "春") for month in "正二三"), ("四", "夏"), ("五", "夏"), ("閏五", "夏"), ("六", "夏"), ("七", "秋"),
    ("閏七", "秋"), ("八", "秋"), ("九", "秋"), ("十", "冬"), ("十一", "冬"), ("十二", "冬"),
)  # fmt: skip
"""Month and its season."""
OPENINGS = (
    "{year}，", "{year}{month}，", "{year}{month}{day}，", "{year}{season}，", "{year}{season}{month}，",
    "{month}{day}，", "{day}，", "{day}，", "{season}{month}，", "是日，", "是月，", "是歲，", "", "",
)  # fmt: skip
EVENT_WEIGHTS = {"Appointment": 24, "Death": 17, "Military": 18, "Diplomacy": 11, "Disaster": 14, "Other": 24}
NEGATIVE_SHARE = 0.15
MIN_LENGTH, MAX_LENGTH = 8, 80  # characters without the tags
MAX_SIMILARITY = 0.6
"""Two passages of a corpus, in whatever splits, stay below this Jaccard similarity of character 3-grams: well under the
0.8 at which the build speaks of near-duplicates, so that an estimate of it does not cross either."""
SEED_SENTENCE = "宣德九年，少師蹇義卒。"
SPLITS = ("train", "valid", "test")

_SLOT = re.compile(r"\{(\w+)(?::(\w+))?(?:!(\w+))?\}")
_TAG = re.compile(r"<[^>]*>")
_NOT_WORD = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Passage:
    """One line of the corpus: its text with inline tags, and the templates that it was made of."""

    tagged: str
    templates: tuple[str, ...]

    @property
    def text(self) -> str:
        """The passage as a reader sees it, without tags."""
        return _TAG.sub("", self.tagged)


@dataclass
class Scribe:
    """Writes the passages of one split."""

    templates: clauses.Templates
    offices: OfficePool
    names: Names
    random: Random
    era: str = field(default="", init=False)

    def passages(self) -> Iterator[Passage]:
        """Passages without end, of the length that is wanted."""
        while True:
            passage = self._passage()
            if MIN_LENGTH <= len(passage.text) <= MAX_LENGTH:
                yield passage

    def _passage(self) -> Passage:
        random = self.random
        self.era = random.choice(tuple(ERAS))
        if self.templates is clauses.TRAIN and random.random() < 0.04:
            return Passage(f"{self._year()}，{self._fill(clauses.SHORT_DEATH, 'Death')}", (clauses.SHORT_DEATH,))
        parts, used = [self._opening()], []
        is_negative = random.random() < NEGATIVE_SHARE
        for number in range(2 if random.random() < 0.35 else 1):
            event = "" if is_negative else random.choices(tuple(EVENT_WEIGHTS), tuple(EVENT_WEIGHTS.values()))[0]
            if number and not is_negative and random.random() < 0.25:
                event = ""  # a clause without an official beside one that has some
            template = random.choice(self.templates[event])
            used.append(template)
            parts.append((random.choice(("", "", "是日，", self._day() + "，")) if number else "") + self._fill(template, event))
            if random.random() < 0.35:
                parts.append(self._fill(random.choice(clauses.CLOSINGS[event]), event))
        if random.random() < 0.12:
            parts.append(self._fill(random.choice(clauses.ASIDES), ""))
        return Passage("".join(parts), tuple(used))

    def _fill(self, template: str, event: str) -> str:
        return _SLOT.sub(lambda found: self._slot(found[1], found[2] or "", found[3] or event), template)

    def _slot(self, name: str, kind: str, event: str) -> str:
        if name in {"L", "N"}:
            each = "A" if name == "L" else "P"
            return "、".join(self._slot(each, kind, event) for _ in range(self.random.choice((2, 2, 3))))
        if name in {"A", "O", "P"}:
            office = f"<O>{self.offices.draw(self.random, kind, self.era)}</O>" if name != "P" else ""
            person = f'<P event="{event}">{self.names.draw()}</P>' if name != "O" else ""
            return office + person
        if name == "o":
            return self.offices.draw(self.random, kind, self.era)
        return self._count() if name == "num" else self.random.choice(clauses.FILLERS[name])

    def _year(self) -> str:
        year = self.random.randint(1, ERAS[self.era])
        return f"{self.era}{'元' if year == 1 else spell(year)}年"

    def _day(self) -> str:
        number = self.random.randrange(60)
        return STEMS[number % 10] + BRANCHES[number % 12]

    def _opening(self) -> str:
        """The date as a passage opens with it: in full, in part, as a phrase, or not at all."""
        name, season = self.random.choice(MONTHS)
        parts = {
            "year": self._year(),
            "season": season,
            "month": name + "月",
            "day": self._day() + self.random.choice(("", "", "朔")),
        }
        return self.random.choice(OPENINGS).format_map(parts)

    def _count(self) -> str:
        number, unit = self.random.randint(1, 9), self.random.choice(("十", "百", "千", "萬"))
        return DIGITS[number] + unit + self.random.choice(("", "", "餘", "有奇" if unit == "萬" else "餘"))


class NearCopies:
    """Finds whether a text resembles one that was taken before.

    Exact: with J(A, B) >= t the two share at least t |A| grams, so they share one of the |A| - ceil(t |A|) + 1 rarest
    grams of A; only the texts that have one of those are compared in full.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._texts: list[frozenset[str]] = []
        self._holders: dict[str, list[int]] = defaultdict(list)

    def take(self, text: str) -> bool:
        """Take a text, unless one that resembles it was taken before; says whether it was taken."""
        grams = trigrams(text)
        rarest = sorted(grams, key=lambda gram: (len(self._holders.get(gram, ())), gram))
        needed = max(1, int(self._limit * len(grams)))  # floor, not ceil: rather one gram too many than a rounding fault
        near = {number for gram in rarest[: len(grams) - needed + 1] for number in self._holders.get(gram, ())}
        if any(jaccard(grams, self._texts[number]) >= self._limit for number in near):
            return False
        for gram in grams:
            self._holders[gram].append(len(self._texts))
        self._texts.append(grams)
        return True


def trigrams(text: str) -> frozenset[str]:
    """The character 3-grams of a text without its punctuation; a shorter text is one gram."""
    letters = _NOT_WORD.sub("", text)
    return frozenset(letters[i : i + 3] for i in range(max(1, len(letters) - 2)))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Share of common members in all members of two sets; two empty sets are equal."""
    union = len(one | other)
    return len(one & other) / union if union else 1.0


def spell(number: int) -> str:
    """A number from 1 to 99 in Chinese characters."""
    tens, ones = divmod(number, 10)
    return ("" if tens == 0 else "十" if tens == 1 else DIGITS[tens] + "十") + (DIGITS[ones] if ones else "")


def make(counts: Sequence[int], seed: int) -> dict[str, list[Passage]]:
    """Passages of train, valid and test (`counts` of each), equal for equal seeds.

    Persons and templates of the splits are disjoint, no two passages resemble each other (MAX_SIMILARITY), and the
    sentence that the specialist is shown afterwards is near none of them.
    """
    random = Random(seed)
    near, taken = NearCopies(MAX_SIMILARITY), set[str]()
    near.take(SEED_SENTENCE)
    pools = split_offices(Random(f"offices {seed}"))
    made: dict[str, list[Passage]] = {}
    for split, count, templates, pool in zip(SPLITS, counts, (clauses.TRAIN, clauses.VALID, clauses.TEST), pools, strict=True):
        scribe = Scribe(templates, pool, Names(random, taken), random)
        fresh = (passage for passage in scribe.passages() if near.take(passage.text))
        made[split] = [next(fresh) for _ in range(count)]
    return made


def sample(seed: int, count: int, split: str = "train") -> list[str]:
    """Tagged passages of one split."""
    return [passage.tagged for passage in make([count if name == split else 0 for name in SPLITS], seed)[split]]


def write(folder: Path, num_train: int, num_valid: int, num_test: int, seed: int) -> None:
    """Write train.txt, valid.txt, test.txt: a passage a line, tagged <O>office</O> and <P event="Event">person</P>."""
    for split, passages in make((num_train, num_valid, num_test), seed).items():
        write_text(folder / f"{split}.txt", "".join(passage.tagged + "\n" for passage in passages))
