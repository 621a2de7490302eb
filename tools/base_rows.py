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
APPOINT = re.compile(rf"以([^，。；！？：、以为為]{{2,3}})[为為]([^，。；！？：、之而]{{1,9}}[{OFFICE_END}])(?=[，。；])")
LIFE = re.compile(r"(?:^|[。”])([^，。；：、“”]{2,4})，字([^，。；：、]{2,3})，([^，。；：、]{2,8})人(?=[，。也])")
KEYS = [
    ("name", "office"),
    ("name", "rank"),
    ("人", "官"),
    ("person", "title"),
    ("姓名", "官职"),
    ("who", "post"),
    ("甲", "乙"),
    ("a", "b"),
    ("key", "value"),
    ("head", "tail"),
    ("text", "type"),
]
# Words of schemas and closed sets: the base must be able to write any key and any choice, not only those that it saw.
WORDS = """
name office event type text title rank person place date time year month day action kind class label field value item list
record source target head tail start end quote note remark reason status state level group order number count total amount
price rate tax unit currency address city country phone email company client vendor invoice receipt payment description
quantity discount subtotal grand question answer choice option letter category subject topic history biology security
philosophy reasoning mathematics language true false null none other unknown appointment military diplomacy disaster death
promotion dismissal campaign relief embassy memorial ritual weather war peace travel birth marriage family father mother
brother son daughter king prince general minister governor judge scholar monk envoy army river mountain province county town
temple palace gate book letter poem law crime punishment reward gift gold silver grain horse ship flood drought fire storm
earthquake victory defeat siege rebellion treaty tribute positive negative neutral high low medium small large first second
last next previous new old good bad yes no maybe left right north south east west PER LOC OFI ORG BOOK DATE MISC TIME EVENT
id key url path code error warning message role system user assistant model score weight
""".split()  # noqa: SIM905
SYSTEMS = [
    "你是史料助手。",
    "你是古籍整理助手，只输出所要求的内容。",
    "You read classical Chinese annals.",
    "请依照要求作答，不要多说。",
    "Answer with JSON only.",
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


def ascii_word(rng: random.Random) -> str:
    """A word of schemas, as it is, capitalised, shouted, or joined to another; sometimes letters at random."""
    if rng.random() < 0.25:
        return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 8)))
    word = rng.choice(WORDS)
    form = rng.random()
    if form < 0.3:
        return word.capitalize()
    if form < 0.4:
        return word.upper()
    return word if form < 0.85 else f"{word}_{rng.choice(WORDS)}"


def some_keys(rng: random.Random, num: int) -> list[str]:
    """Distinct keys of a record: known pairs, or any words."""
    if num == 2 and rng.random() < 0.3:
        return list(rng.choice(KEYS))
    keys: list[str] = []
    while len(keys) < num:
        word = ascii_word(rng) if rng.random() < 0.8 else rng.choice(["人", "官", "地", "时", "事", "姓名", "职官", "类"])
        if word not in keys:
            keys.append(word)
    return keys


def copy(rng: random.Random, text: str, say: Say) -> tuple[str, str]:
    if rng.random() < 0.3:
        words = [rare_word(rng) for _ in range(rng.randint(2, 8))]
        text = "".join(words) if rng.random() < 0.5 else "、".join(words)
    return say(rng.choice(["抄录下文：", "照抄：", "Copy: ", "重复下面的文字。\n"])) + text, text


def list_clauses(rng: random.Random, text: str, say: Say) -> tuple[str, str]:
    return say(rng.choice(["把下文逐句列为 JSON：\n", "分句，输出 JSON List。\n"])) + text, compact(CLAUSE.findall(text))


def list_words(rng: random.Random, text: str, say: Say) -> tuple[str, str]:
    makers = (lambda: rare_word(rng), lambda: ascii_word(rng), lambda: piece(rng, text), lambda: piece(rng, text))
    words = [rng.choice(makers)() for _ in range(rng.randint(1, 7))]
    return say(rng.choice(["列为 JSON：", "JSON list: "])) + "、".join(words), compact(words)


def fill_form(rng: random.Random, text: str, say: Say) -> tuple[str, str]:
    keys = some_keys(rng, rng.randint(1, 4))
    form = {k: (None if rng.random() < 0.2 else ascii_word(rng) if rng.random() < 0.3 else piece(rng, text)) for k in keys}
    lines = [f"{k}：{say('无') if v is None else v}" for k, v in form.items()]
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


def schema(rng: random.Random, lines: list[str], say: Say, about: str) -> str:
    """An instruction that names the fields, one a line."""
    head = rng.choice(
        [
            "提取记录，输出 JSON List，没有则输出 []。",
            "从下文中提取，写成 JSON List，无则 []。",
            "Extract records as a JSON list.",
        ]
    )
    return say(head) + "\n" + (say(about) + "\n" if about else "") + "\n".join(lines) + "\n\n"


def marked_records(rng: random.Random, text: str, say: Say) -> tuple[str, str]:
    """Pairs marked in running text: the shape of extraction without its knowledge. Sometimes a third field is a choice
    that a cue in the same clause decides.
    """
    first, second, third = some_keys(rng, 3)
    open_a, close_a, open_b, close_b = rng.choice(["【】〔〕", "「」『』", "<>[]", "《》（）"])
    choices = list(dict.fromkeys(ascii_word(rng) for _ in range(rng.randint(2, 6))))
    is_choosing = rng.random() < 0.5
    cues = dict(zip(rng.sample("卒兵水使表遣命攻旱", len(choices) - 1), choices, strict=False))
    out, records = [], []
    for clause in CLAUSE.findall(text):
        if len(clause) < 5 or rng.random() < 0.4:
            out.append(clause)
            continue
        i = rng.randint(0, len(clause) - 4)
        k = rng.randint(1, 3)
        record: dict[str, str | None]
        if rng.random() < 0.6:
            marked = f"{clause[:i]}{open_b}{clause[i : i + k]}{close_b}{open_a}{clause[i + k : i + k + 2]}{close_a}{clause[i + k + 2 :]}"
            record = {first: clause[i + k : i + k + 2], second: clause[i : i + k]}
        else:
            marked = f"{clause[:i]}{open_a}{clause[i : i + k]}{close_a}{clause[i + k :]}"
            record = {first: clause[i : i + k], second: None}
        if is_choosing:
            record[third] = next((choice for cue, choice in cues.items() if cue in clause), choices[-1])
        out.append(marked)
        records.append(record)
    lines = [f"{first}：{open_a}{close_a}", f"{second}：{open_b}{close_b}；null"]
    about = ""
    if is_choosing:
        lines.append(f"{third}：{'|'.join(choices)}")
        about = "，".join(f"有「{cue}」则 {choice}" for cue, choice in cues.items()) + f"，否则 {choices[-1]}。"
    return schema(rng, lines, say, about) + "，".join(out) + "。", compact(records)


def biographies(rng: random.Random, text: str, say: Say) -> tuple[str, str]:
    """The openings of biographies: name, style, home."""
    keys = some_keys(rng, 3)
    found = [dict(zip(keys, m.groups(), strict=True)) for m in LIFE.finditer(text)]
    lines = [f"{key}：{say(about)}" for key, about in zip(keys, ("人名", "字", "籍贯"), strict=True)]
    return schema(rng, lines, say, "") + text, compact(found)


def times(rng: random.Random, text: str, say: Say) -> tuple[str, str]:
    found = [m.group() for m in re.finditer(f"{DAY.pattern}|{YEAR.pattern}", text)]
    key = rng.choice(["time", "时间", "day"])
    return say("列出下文中的年与干支日，字段 ") + key + say("，输出 JSON List，无则 []。\n") + text, compact(
        [{key: t} for t in found]
    )


def appointments(rng: random.Random, text: str, say: Say) -> tuple[str, str]:
    first, second = some_keys(rng, 2)
    found = [{first: m.group(1), second: m.group(2)} for m in APPOINT.finditer(text)]
    if rng.random() < 0.6:
        return schema(rng, [f"{first}：{say('人名')}", f"{second}：{say('新任之官')}"], say, "") + text, compact(found)
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
    (copy, 3),
    (list_clauses, 1.5),
    (list_words, 2),
    (fill_form, 2),
    (between, 1.5),
    (starts_with, 1.5),
    (marked_records, 4),
    (times, 1),
    (appointments, 4),
    (biographies, 3),
    (contains, 0.5),
    (which_choice, 1),
]


def rows(passages: list[str], traditional: list[str], rng: random.Random, say_traditional: Say) -> Iterator[Row]:
    """Endless rows over real passages in both scripts; patterns are mostly asked for where they stand."""
    kinds = [kind for kind, _ in KINDS]
    weights = [weight for _, weight in KINDS]
    pools = [
        {appointments: [p for p in pool if APPOINT.search(p)], biographies: [p for p in pool if LIFE.search(p)], None: pool}
        for pool in (passages, traditional)
    ]
    while True:
        kind = rng.choices(kinds, weights)[0]
        script = rng.randint(0, 1)
        pool = pools[script].get(kind) if rng.random() < 0.75 else None
        say: Say = say_traditional if script else str
        user, assistant = kind(rng, rng.choice(pool or pools[script][None]), say)
        yield Row(say(rng.choice(SYSTEMS)) if rng.random() < 0.5 else None, user, assistant)
