"""Faults planted in data files, each found by the command line: exit code, place, remedy, and nothing lost."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from planted_rows import CHOICE, EXTRACTION, FREE, GOOD, MANY, SPLITS, TEST, TEXTS, VALID, Whet, chat, jsonl, kept, source, three


def test_files_without_a_fault_pass(whet: Whet, place: Path) -> None:
    for name, rows in zip(SPLITS, (GOOD, VALID, TEST), strict=True):
        (place / f"{name}.jsonl").write_bytes(jsonl(rows))
    (place / "r.yaml").write_text(EXTRACTION + three())
    code, said = whet.run("data", "build", "r.yaml", "-o", "run")
    assert code == 0, said
    assert "left out" not in said


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (GOOD[2], "exact"),
        (chat("升行在，監察御史程富——爲行在大理寺左少卿！", "程富"), "normalised"),
        (chat("升行在监察御史程富为行在大理寺左少卿。", "程富"), "normalised"),
        (chat("升行在監察御史程富爲行在大理寺左少卿矣。", "程富"), "near"),
    ],
    ids=["copied", "punctuation", "script", "word"],
)
def test_a_row_of_train_in_another_split(whet: Whet, place: Path, split: str, row: dict[str, Any], kind: str) -> None:
    files = {"train": GOOD, "valid": VALID, "test": TEST}
    files[split] = [*files[split], row]
    said = whet.refuse(EXTRACTION + three(), {f"{name}.jsonl": rows for name, rows in files.items()})
    assert said.startswith(f"{split}.jsonl:3: 1 example leaks between splits, {kind} 1 (train-{split})")
    assert "train.jsonl:3 (train)" in said
    assert "Set data.split.leaks=move" in said
    [pair] = kept(place, "leaks")
    assert (pair["place"], pair["partner_place"]) == (f"{split}.jsonl:3", "train.jsonl:3")
    assert "run/data.leaks.jsonl" in said


ALPACA = {"instruction": "提取", "input": "召大學士楊士奇。", "output": '[{"name": "楊士奇"}]'}
TRAP = {"text": "召大學士楊士奇。", "completion": '[{"name": "楊士奇"}]'}
LONG = "".join(f"尚書{name}{given}，" for name in "趙錢孫李周吳鄭王馮陳褚衛蔣沈韓楊" for given in "文武忠孝仁義")


@pytest.mark.parametrize("rows", [GOOD, MANY], ids=["few", "many"])
@pytest.mark.parametrize("task", [EXTRACTION, FREE], ids=["extraction", "free"])
@pytest.mark.parametrize(
    ("row", "seen", "remedy"),
    [
        (TRAP, "the completion is never trained", "Rename text to prompt"),
        (ALPACA, "an alpaca row amid messages rows", "`mixed: allow`"),
    ],
    ids=["text and completion", "alpaca"],
)
def test_a_row_of_another_format(
    whet: Whet, place: Path, rows: list[Any], task: str, row: dict[str, str], seen: str, remedy: str
) -> None:
    said = whet.refuse(task + source(), {"a.jsonl": [*rows[:5], row, *rows[5:]]})
    assert said.startswith("a.jsonl:6: 1 of ")
    assert seen in said
    assert remedy in said
    assert "run/data.rejects.jsonl" in said
    [rejected] = kept(place)
    assert (rejected["place"], json.loads(rejected["raw"])) == ("a.jsonl:6", row)


def standoff(shift: int, widen: int) -> bytes:
    rows = [
        {"tokens": text, "entities": [{"type": "PER", "start": at, "end": at + len(name), "span": name}], "relations": []}
        for text, name in TEXTS.items()
        for at in [text.index(name)]
    ]
    rows[3]["entities"][0]["start"] += shift  # type: ignore[index]
    rows[3]["entities"][0]["end"] += shift + widen  # type: ignore[index]
    return json.dumps(rows, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("shift", "widen", "seen", "remedy"),
    [
        (1, 0, "'劉儼' does not stand in the text at 9 to 11, where '儼爲' stands", "data.clean.ungrounded=drop"),
        (0, 1, "'劉儼' does not stand in the text at 8 to 11", "Mend the gold"),
        (90, 0, "stands at 98 to 100 of a text of 17 characters", "offsets count characters from 0"),
        (0, -3, "stands at 8 to 7", "end exclusive"),
    ],
)
def test_wrong_offsets(whet: Whet, place: Path, shift: int, widen: int, seen: str, remedy: str) -> None:
    recipe = EXTRACTION + source("a.json", reader="standoff", types=["PER"], text_field="name")
    said = whet.refuse(recipe, {"a.json": standoff(shift, widen)})
    assert said.startswith("a.json:1 row 4: ")
    assert seen in said
    assert remedy in said
    assert [row["place"] for row in kept(place)] == ["a.json:1 row 4"]


@pytest.mark.parametrize(
    ("row", "kind", "seen", "remedy"),
    [
        (chat("召大學士楊士奇。", "楊溥"), "ungrounded", "'楊溥' does not stand in the text", "data.clean.ungrounded=drop"),
        (chat("召大學士楊士奇。", "杨士奇"), "ungrounded", "'杨士奇' does not stand", "data.clean.ungrounded=drop"),
        (chat(LONG, *re.findall("尚書(..)，", LONG)), "over_long", "the limit is 256", "raise the length limit"),
    ],
    ids=["absent", "other script", "too long"],
)
def test_gold_that_can_not_be_learnt(whet: Whet, place: Path, row: dict[str, Any], kind: str, seen: str, remedy: str) -> None:
    said = whet.refuse(EXTRACTION + source(), {"a.jsonl": [*GOOD, row]}, "train.max_length=256")
    assert said.startswith("a.jsonl:10: 1 row ")
    assert seen in said
    assert remedy in said
    [rejected] = kept(place)
    assert (rejected["stage"], rejected["row"]["text"]) == (kind, row["messages"][0]["content"])


def test_the_same_text_with_other_tags_in_a_table(whet: Whet, place: Path) -> None:
    tagged = [text.replace(name, f"<P>{name}</P>") for text, name in TEXTS.items()]
    lines = [f"\"[('1', '實錄', '{text}')]\"" for text in [*tagged, "宣德九年，<O>少師</O><P>蹇</P>義卒。"]]
    (place / "a.csv").write_text("\n".join(["Related Texts", *lines]), "utf-8")
    task = EXTRACTION.replace("{name: name}", "{name: name}, {name: rank, nullable: true}")
    (place / "r.yaml").write_text(task + source("a.csv", reader="ming_csv"))
    code, said = whet.run("data", "build", "r.yaml", "-o", "run")
    assert code == 0, said
    assert "1 rows left out: conflicting 1; each is in run/data/rejects.jsonl" in said
    [row] = [json.loads(line) for line in (place / "run/data/rejects.jsonl").read_text("utf-8").splitlines()]
    assert (row["place"], row["seen"]) == ("a.csv:11", "the text of a.csv:2, with another gold")
    assert row["row"]["records"][0]["name"]["text"] == "蹇"
    assert json.loads((place / "run/data/manifest.json").read_text("utf-8"))["faults"] == {"conflicting": 1}
    code, said = whet.run("data", "build", "r.yaml", "data.clean.conflicting=stop", "-o", "other")
    assert code == 2
    assert "whet: a.csv:11: 1 row with conflicting gold" in said


def test_conflicting_gold(whet: Whet, place: Path) -> None:
    rows = [*GOOD, chat(next(iter(TEXTS)), "少師")]
    said = whet.refuse(EXTRACTION + source(), {"a.jsonl": rows}, "data.clean.conflicting=stop")
    assert said.startswith("a.jsonl:10: 1 row with conflicting gold")
    assert "a.jsonl:10: the text of a.jsonl:1, another gold" in said
    code, said = whet.run("data", "build", "r.yaml", "-o", "run")
    assert code == 0
    assert "conflicting 1" in said
    assert "run/data/rejects.jsonl" in said
    [row] = [json.loads(line) for line in (place / "run/data/rejects.jsonl").read_text("utf-8").splitlines()]
    assert (row["stage"], row["place"]) == ("conflicting", "a.jsonl:10")


BROKEN = {
    "empty": ("a.jsonl", b"", "a.jsonl: is empty", "take it out of the recipe"),
    "blank lines": ("a.jsonl", b"\n\n  \n\n", "a.jsonl: holds no rows", "take it out of the recipe"),
    "byte order mark": ("a.jsonl", b"\xef\xbb\xbf", "a.jsonl: holds no rows", "take it out of the recipe"),
    "empty list": ("a.json", b"[]", "a.json: holds no rows", "take it out of the recipe"),
    "Latin-1": ("a.jsonl", '{"question": "Où est le café?", "answer": "là"}\n'.encode("latin-1"), "a.jsonl:1: byte 15 (0xf9)",
                "Set `encoding: latin-1`"),
    "Latin-1 below": ("a.jsonl", jsonl(MANY) + b'{"question": "caf\xe9?", "answer": "a"}\n', "a.jsonl:361: byte ", "latin-1"),
    "Latin-1 table": ("a.csv", "question,answer\nOù?,là\n".encode("latin-1"), "a.csv:2: byte 17 (0xf9)", "encoding: latin-1"),
    "GB 18030": ("a.jsonl", jsonl(GOOD).decode().encode("gb18030"), "a.jsonl:1: byte ", "Set `encoding: gb18030`"),
    "UTF-16": ("a.jsonl", jsonl(GOOD).decode().encode("utf-16"), "a.jsonl:1: byte 0 (0xff)", "Convert the file to UTF-8"),
    "half a character": ("a.jsonl", jsonl([*GOOD, chat("甲\ud83d乙", "乙")]), "a.jsonl:10: byte ", "Write that line again"),
    "a damaged byte": ("a.jsonl", jsonl(GOOD).replace("王驥總".encode(), b"\xe7\x8e", 1), "a.jsonl:2: byte ", "Write that line again"),
    "half a list": ("a.json", json.dumps(GOOD).encode()[:-90], "a.json:1: not JSON at column ", "cut off"),
    "half a spread list": ("a.json", json.dumps(GOOD, indent=1).encode()[:-60], "a.json:106: not JSON at column ", "cut off"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_file(whet: Whet, fault: str) -> None:
    name, content, start, remedy = BROKEN[fault]
    said = whet.refuse(FREE + source(name), {name: content})
    assert said.startswith(start)
    assert remedy in said


BROKEN_ROWS = {
    "broken JSON": ('{"messages": [', "not JSON at column 15", "Mend this line"),
    "half a character": (json.dumps(chat("甲\ud83d乙", "乙")), "half of a surrogate pair, U+D83D", "from the original"),
    "NUL": ('{"messages":\0}', "not JSON at column 13", "Mend this line"),
    "no format": ({"txt": "甲"}, "a row with the key txt, of no known format", "Rename txt to text"),
}


@pytest.mark.parametrize("fault", BROKEN_ROWS)
def test_a_broken_row(whet: Whet, place: Path, fault: str) -> None:
    row, seen, remedy = BROKEN_ROWS[fault]
    said = whet.refuse(EXTRACTION + source(), {"a.jsonl": [*GOOD[:4], row, *GOOD[4:]]})
    assert said.startswith("a.jsonl:5: 1 of 10 rows can't be used; data.max_bad_share=0.01 allows less")
    assert seen in said
    assert remedy in said
    assert [rejected["place"] for rejected in kept(place)] == ["a.jsonl:5"]


def inline(*more: str) -> bytes:
    return (
        "".join(f"{text.replace(name, f'<P>{name}</P>')}\n" for text, name in TEXTS.items()).encode() + "\n".join(more).encode()
    )


@pytest.mark.parametrize(
    ("content", "start", "remedy"),
    [
        (inline("召<P>楊士奇至。"), "a.txt:10: ", "Close it with </P>"),
        (inline("召<Q>楊士奇</Q>至。"), "a.txt:10: ", "Known are P; name others in ignore_tags"),
        (inline().replace(b"P>", b"PER>"), "a.txt:1: 9 of 9 rows", "unknown tag <PER> at column 8 (Known are P"),
        (re.sub(b"</?P>", b"", inline()), "run/data: no examples are left in train that have a record", "names of tags"),
    ],
    ids=["unclosed", "unknown", "all unknown", "none"],
)
def test_wrong_tags(whet: Whet, content: bytes, start: str, remedy: str) -> None:
    said = whet.refuse(EXTRACTION + source("a.txt", reader="inline", tags={"name": {"tag": "P"}}), {"a.txt": content})
    assert said.startswith(start)
    assert remedy in said


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (EXTRACTION.replace("{name: name}", "{name: person}"), "its records have the fields name; the task wants person"),
        (EXTRACTION.replace("{name: name}", "{name: name}, {name: office, nullable: true}"), "the task wants name, office"),
        (CHOICE, "it has no choices"),
    ],
)
def test_data_of_another_task(whet: Whet, task: str, words: str) -> None:
    said = whet.refuse(task + source("a.txt", reader="inline", tags={"name": {"tag": "P"}}), {"a.txt": inline()})
    assert said.startswith("a.txt:1: 9 of 9 rows can't be used")
    assert words in said


def test_a_type_that_never_occurs(whet: Whet) -> None:
    rows = "".join("".join(f"{char}\tO\n" for char in text) + "蹇\tB-PER\n義\tI-PER\n\n" for text in TEXTS)
    recipe = EXTRACTION + source("a.txt", reader="columns", types=["PRE"], text_field="name")
    assert whet.refuse(recipe, {"a.txt": rows.encode()}).startswith("a.txt: no type PRE occurs in this source. Correct the "
                                                                    "setting; did you mean PER?")  # fmt: skip
