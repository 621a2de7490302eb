"""Writes the instruction-shaped rows that are mixed into the base's pre-training text."""

import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Say = Callable[[str], str]  # how an instruction is written: as it is, or in Traditional script

CLAUSE = re.compile(r"[^，。；！？：、]{2,40}")
DAY = re.compile(r"[甲乙丙丁戊己庚辛壬癸][子丑寅卯辰巳午未申酉戌亥]")
YEAR = re.compile(r"(?:[元一二三四五六七八九十]{1,3})年")
OFFICE_END = "使史书書郎守令尉军軍士御事丞卿监監尹夫师師傅保相督抚撫帅帥讲講正"
APPOINT = re.compile(
    rf"以([^，。；！？：、以为為]{{2,3}})[为為]([^，。；！？：、之而]{{1,9}}[{OFFICE_END}])(?=[，。；])"
)
KEYS = [
    ("name", "office"), ("name", "rank"), ("人", "官"), ("person", "title"), ("姓名", "官职"),
    ("who", "post"), ("甲", "乙"), ("a", "b"), ("key", "value"), ("head", "tail"),
]
SYSTEMS = [
    "你是史料助手。", "你是古籍整理助手，只输出所要求的内容。", "You read classical Chinese annals.",
    "请依照要求作答，不要多说。", "Answer with JSON only.",
]


@dataclass(frozen=True)
class Row:
    """One question and its answer, before the chat template."""

    system: str | None
    user: str
    assistant: str


def compact(value: object) -> str:
    """JSON as the base is taught to write it: no spaces, characters as they are."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def rare_word(rng: random.Random) -> str:
    """One to four characters from the whole range of ideographs, so that bytes get copied too."""
    blocks = [(0x4E00, 0x9FFF), (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF)]
    lo, hi = rng.choice(blocks)
    return "".join(chr(rng.randint(lo, hi)) for _ in range(rng.randint(1, 4)))


def piece(rng: random.Random, text: str, lo: int = 2, hi: int = 5) -> str:
    """A random run of characters of the text that holds no punctuation."""
    clauses = CLAUSE.findall(text)
    clause = rng.choice(clauses) if clauses else text
    n = min(rng.randint(lo, hi), len(clause))
    at = rng.randint(0, len(clause) - n)
    return clause[at : at + n]


def copy(rng: random.Random, text: str, say: Say) -> tuple[str, str]:
    if rng.random() < 0.3:
        words = [rare_word(rng) for _ in range(rng.randint(2, 8))]
        text = "".join(words) if rng.random() < 0.5 else "、".join(words)
    return say(rng.choice(["抄录下文：", "照抄：", "Copy: ", "重复下面的文字。\n"])) + text, text


def list_clauses(rng: random.Random, text: str, say: Say) -> tuple[str, str]:
    return say(rng.choice(["把下文逐句列为 JSON：\n", "分句，输出 JSON List。\n"])) + text, compact(CLAUSE.findall(text))


def list_words(rng: random.Random, text: str, say: Say) -> tuple[str, str]:
    words = [rare_word(rng) if rng.random() < 0.2 else piece(rng, text) for _ in range(rng.randint(1, 7))]
    return say(rng.choice(["列为 JSON：", "JSON list: "])) + "、".join(words), compact(words)


def fill_form(rng: random.Random, text: str, say: Say) -> tuple[str, str]:
    keys = [k for pair in rng.sample(KEYS, 2) for k in pair]
    form = {k: (None if rng.random() < 0.2 else piece(rng, text)) for k in keys[: rng.randint(1, 4)]}
    lines = [f"{k}：{'无' if v is None else v}" for k, v in form.items()]
    rng.shuffle(lines)
    ask = say("按 ") + "、".join(form) + say(" 的次序写成 JSON，无则 null。\n")
    return ask + rng.choice(["\n", "；"]).join(lines), compact(form)


def between(rng: random.Random, text: str, say: Say) -> tuple[str, str]:
    a = rng.randint(0, max(0, len(text) - 12))
    n = rng.randint(1, 6)
    left, span, right = text[max(0, a) : a + 3], text[a + 3 : a + 3 + n], text[a + 3 + n : a + 6 + n]
    return say("下文中「") + left + say("」之后、「") + right + say("」之前是什么？\n") + text, span


def starts_with(rng: random.Random, text: str, say: Say) -> tuple[str, str]:
    clauses = CLAUSE.findall(text) or [text]
    want = rng.choice(clauses)
    first = next(c for c in clauses if c.startswith(want[:2]))
    return say("找出以「") + want[:2] + say("」起头的一句。\n") + text, first


def marked_records(rng: random.Random, text: str, say: Say) -> tuple[str, str]:
    """Pairs marked in running text: the shape of extraction without its knowledge."""
    first, second = rng.choice(KEYS)
    open_a, close_a, open_b, close_b = rng.choice(["【】〔〕", "「」『』", "<>[]", "《》（）"])
    out, records, pending = [], [], None
    for clause in CLAUSE.findall(text):
        if len(clause) < 5 or rng.random() < 0.4:
            out.append(clause)
            continue
        i = rng.randint(0, len(clause) - 4)
        k = rng.randint(1, 3)
        if rng.random() < 0.6:
            out.append(f"{clause[:i]}{open_b}{clause[i:i+k]}{close_b}{open_a}{clause[i+k:i+k+2]}{close_a}{clause[i+k+2:]}")
            records.append({first: clause[i + k : i + k + 2], second: clause[i : i + k]})
        else:
            out.append(f"{clause[:i]}{open_a}{clause[i:i+k]}{close_a}{clause[i+k:]}")
            records.append({first: clause[i : i + k], second: pending})
    ask = f"{open_a}{close_a} 是 {first}，其前 {open_b}{close_b} 是 {second}，" + say("无则 null。输出 JSON List。\n")
    return ask + "，".join(out) + "。", compact(records)


def times(rng: random.Random, text: str, say: Say) -> tuple[str, str]:
    found = [m.group() for m in re.finditer(f"{DAY.pattern}|{YEAR.pattern}", text)]
    key = rng.choice(["time", "时间", "day"])
    return say("列出下文中的年与干支日，字段 ") + key + say("，输出 JSON List，无则 []。\n") + text, compact([{key: t} for t in found])


def appointments(rng: random.Random, text: str, say: Say) -> tuple[str, str]:
    first, second = rng.choice(KEYS[:6])
    found = [{first: m.group(1), second: m.group(2)} for m in APPOINT.finditer(text)]
    ask = say("下文「以某为某」中，何人（") + first + say("）为何官（") + second + say("）？输出 JSON List，无则 []。\n")
    return ask + text, compact(found)


def contains(rng: random.Random, text: str, say: Say) -> tuple[str, str]:
    word = piece(rng, text) if rng.random() < 0.5 else rare_word(rng)
    return say("下文有「") + word + say("」吗？\n") + text, "是" if word in text else "否"


def which_choice(rng: random.Random, text: str, say: Say) -> tuple[str, str]:
    right = piece(rng, text, 3, 6)
    options = [right] + ["".join(rng.sample(right, len(right))) for _ in range(3)]
    options = list(dict.fromkeys(options))
    rng.shuffle(options)
    lines = [f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=False)]
    return text + say("\n哪一项见于上文？\n") + "\n".join(lines), "ABCD"[options.index(right)]


KINDS: list[tuple[Callable[[random.Random, str, Say], tuple[str, str]], float]] = [
    (copy, 3), (list_clauses, 1.5), (list_words, 2), (fill_form, 2), (between, 1.5), (starts_with, 1.5),
    (marked_records, 3), (times, 1.5), (appointments, 4), (contains, 0.5), (which_choice, 1),
]


def rows(passages: list[str], traditional: list[str], rng: random.Random, say_traditional: Say) -> Iterator[Row]:
    """Endless rows over real passages in both scripts; `appointments` is mostly asked where there is one."""
    kinds = [kind for kind, _ in KINDS]
    weights = [weight for _, weight in KINDS]
    pools = [(pool, [p for p in pool if APPOINT.search(p)]) for pool in (passages, traditional)]
    while True:
        kind = rng.choices(kinds, weights)[0]
        script = rng.randint(0, 1)
        pool, appointing = pools[script]
        if kind is appointments and appointing and rng.random() < 0.7:
            pool = appointing
        say: Say = say_traditional if script else str
        user, assistant = kind(rng, rng.choice(pool), say)
        yield Row(say(rng.choice(SYSTEMS)) if rng.random() < 0.6 else None, user, assistant)
