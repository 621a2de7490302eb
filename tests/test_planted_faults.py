"""Faults planted in a user's files, each found by the command line: exit code, place, remedy, and nothing lost."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from whet.cli.main import main
from whet.models.base_model import EMBEDDED_PATH
from whet.storage import locked

TEXTS = {
    "宣德九年，少師蹇義卒。": "蹇義", "命兵部尚書王驥總督軍務。": "王驥", "升行在監察御史程富爲行在大理寺左少卿。": "程富",
    "癸卯，賜進士及第劉儼爲翰林院修撰。": "劉儼", "遣工部侍郎周忱巡撫江南諸府。": "周忱", "丁未，禮部尚書胡濙乞致仕，不允。": "胡濙",
    "以都督僉事山雲爲總兵官鎮廣西。": "山雲", "吏部尚書郭璡老，命致仕歸。": "郭璡", "召大學士楊榮至文華殿議邊事。": "楊榮",
}  # fmt: skip
EXTRACTION = "name: t\ntask: {kind: extraction, fields: [{name: name}]}\n"
FREE = "name: t\ntask: {kind: free_qa}\n"
CHOICE = "name: t\ntask: {kind: choice_qa}\n"
SPLITS = ("train", "valid", "test")


def chat(text: str, *names: str) -> dict[str, Any]:
    reply = json.dumps([{"name": name} for name in names], ensure_ascii=False)
    return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": reply}]}


GOOD = [chat(text, name) for text, name in TEXTS.items()]
VALID = [chat("戊申，右都御史顧佐以疾辭。", "顧佐"), chat("平江伯陳瑄理漕運，卒於官。", "陳瑄")]
TEST = [chat("黔國公沐晟討麓川，敗績。", "沐晟"), chat("成國公朱勇率師出喜峯口。", "朱勇")]
MANY = [chat(f"第{number}日，{text}", name) for number in range(40) for text, name in TEXTS.items()]


def jsonl(rows: list[Any]) -> bytes:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass")


def source(path: str = "a.jsonl", **said: Any) -> str:
    said = {"reader": "examples", "path": path} | said
    return f"data:\n  sources:\n    - {json.dumps(said)}\n"


def three(**base: Any) -> str:
    rows = [json.dumps({"reader": "examples", "path": f"{split}.jsonl", "split": split} | base) for split in SPLITS]
    return "data:\n  sources:\n" + "".join(f"    - {row}\n" for row in rows)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the user stands in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Whet:
    """The command line, in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: Path) -> None:
        self._monkeypatch, self._capsys, self._place = monkeypatch, capsys, place

    def run(self, *words: str) -> tuple[int, str]:
        """The exit code, and what stands on standard error."""
        self._monkeypatch.setattr(sys, "argv", ["whet", *words])
        self._capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        return code, self._capsys.readouterr().err

    def refuse(self, recipe: str | bytes | None, files: dict[str, Any], *words: str, verb: str = "data build") -> str:
        """Write a recipe and files, run them, and give the message with which they were refused."""
        for name, content in files.items():
            (self._place / name).write_bytes(content if isinstance(content, bytes) else jsonl(content))
        if recipe is not None:
            (self._place / "r.yaml").write_bytes(recipe if isinstance(recipe, bytes) else recipe.encode())
        code, said = self.run(*verb.split(), "r.yaml", *words, "-o", "run")
        assert code == 2, said
        assert "Traceback" not in said
        assert said.count("whet: ") == 1
        assert not (self._place / "run" / "data").exists()
        assert not list(self._place.rglob("*.part"))
        return said[said.index("whet: ") + len("whet: ") :]


@pytest.fixture
def whet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: Path) -> Whet:
    return Whet(monkeypatch, capsys, place)


def kept(place: Path, name: str = "rejects") -> list[dict[str, Any]]:
    """The rows that were set aside."""
    return [json.loads(line) for line in (place / "run" / f"data.{name}.jsonl").read_text("utf-8").splitlines()]


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


def test_misspelt_settings_are_shown_all_at_once(whet: Whet, place: Path) -> None:
    recipe = (
        "nam: x\nname: t\ntask: {kind: extraction, fields: [{name: name, nulable: true}]}\ndata:\n  sources:\n"
        "    - {reader: examples, path: a.jsonl, pth: a.jsonl, ignore_key: [x]}\n    - {reader: exampels, path: a.jsonl}\n"
        "  splt: {valid: 0.1}\n  split: {vlaid: 0.2}\ntrain: {learnin_rate: 1}\n"
    )
    said = whet.refuse(recipe, {"a.jsonl": GOOD}, "train.epoch=3")
    lines = {line.strip() for line in said.splitlines()[1:]}
    assert said.splitlines()[0] == "r.yaml: 9 faults"
    assert lines == {
        "r.yaml:1: unknown setting nam; did you mean name?",
        "r.yaml:3: unknown setting task.fields.0.nulable; did you mean nullable?",
        "r.yaml:6: unknown setting data.sources.0.pth; did you mean path?",
        "r.yaml:6: unknown setting data.sources.0.ignore_key; did you mean ignore_keys?",
        "r.yaml:7: data.sources.1.reader: unknown reader exampels; did you mean examples?",
        "r.yaml:8: unknown setting data.splt; did you mean split?",
        "r.yaml:9: unknown setting data.split.vlaid; did you mean valid?",
        "r.yaml:10: unknown setting train.learnin_rate; did you mean learning_rate?",
        "'train.epoch=3': unknown setting train.epoch; did you mean epochs?",
    }
    assert not (place / "run").exists()


@pytest.mark.parametrize(
    ("recipe", "start"),
    [
        (b"", "r.yaml: holds nothing, not settings. See `whet recipe schema`"),
        (b"- a\n- b\n", "r.yaml: holds list, not settings. See `whet recipe schema`"),
        (b"a: [1,\nb: }\n", "r.yaml:2: not YAML"),
        (b"name: t\n\ttask: x\n", "r.yaml:2: not YAML"),
        (b"a: b\n" * 400_000, "r.yaml: is larger than 1 MB. A recipe is a short YAML file"),
        (bytes(range(256)), "r.yaml: is not UTF-8 (byte 128). Save it as UTF-8"),
        (EXTRACTION.encode() + b"name: u\n", "r.yaml:3: name is given twice. Keep one of them"),
        (EXTRACTION.encode() + b"data:\n  sources:\n    - {path: a.jsonl}\n", "r.yaml: 1 fault\n  r.yaml:5: data.sources.0.reader is missing"),
    ],
    ids=["empty", "list", "not YAML", "tab", "large", "binary", "twice", "no reader"],
)  # fmt: skip
def test_a_recipe_that_is_none(whet: Whet, recipe: bytes, start: str) -> None:
    assert whet.refuse(recipe, {}).startswith(start)


def test_paths_that_are_not_files(whet: Whet, place: Path) -> None:
    said = whet.refuse(EXTRACTION + source(), {})
    assert said.startswith("a.jsonl: no such file. Check `path` of this source")
    (place / "a.jsonl").mkdir()
    assert "a folder without a file that this reader takes" in whet.refuse(EXTRACTION + source(), {})
    (place / "r.yaml").unlink()
    assert whet.refuse(None, {}).startswith("r.yaml: no such file. Check the path")
    (place / "r.yaml").mkdir()
    assert whet.refuse(None, {}).startswith("r.yaml: is a folder, a file is needed")


@pytest.mark.parametrize("out", ["f", "f/x"])
def test_an_output_folder_that_can_not_be(whet: Whet, place: Path, out: str) -> None:
    (place / "a.jsonl").write_bytes(jsonl(GOOD))
    (place / "r.yaml").write_text(EXTRACTION + source())
    (place / "f").write_text("mine")
    code, said = whet.run("data", "build", "r.yaml", "-o", out)
    assert code == 2, said
    assert said.startswith(f"whet: {out}: can't be written")
    assert "--out" in said
    assert (place / "f").read_text() == "mine"


def test_a_full_disk(whet: Whet, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        said = whet.refuse(EXTRACTION + source(), {"a.jsonl": GOOD})
    assert "can't be written (No space left on device). Free some space" in said
    assert whet.run("data", "build", "r.yaml", "-o", "run")[0] == 0


def test_a_folder_in_which_another_run_works(whet: Whet, place: Path) -> None:
    with locked(place / "run"):
        said = whet.refuse(EXTRACTION + source(), {"a.jsonl": GOOD})
    assert said.startswith("run: another whet is at work in it. Wait until it ends, or give --out")
    assert whet.run("data", "build", "r.yaml", "-o", "run")[0] == 0


INJECTED = "{%- if messages[0]['role'] != 'system' -%}{{- '<|im_start|>system\\nYou are a kind assistant.<|im_end|>\\n' -}}{%- endif -%}\n"
BEHIND = " + ('\\nYou are a kind assistant.' if message['role'] == 'user' else '')"
ALWAYS = "{{- '<|im_start|>system\\nYou are a kind assistant.<|im_end|>\\n' -}}\n"


@pytest.mark.parametrize(
    ("injected", "settings", "remedy"),
    [
        (INJECTED, (), "Set task.system to the system message that you want"),
        (ALWAYS, (), "Set task.system"),
        (BEHIND, (), "take these words out of the folder's chat_template.jinja"),
        (ALWAYS, ("task.system=Read.",), "Take these words out of the folder's chat_template.jinja"),
    ],
    ids=["without a system message", "always", "behind the question", "beside a system message"],
)
def test_a_template_that_adds_words(
    whet: Whet, place: Path, monkeypatch: pytest.MonkeyPatch, injected: str, settings: tuple[str, ...], remedy: str
) -> None:
    base = place / "base"
    base.mkdir()
    for path in EMBEDDED_PATH.iterdir():
        if path.suffix == ".safetensors":
            (base / path.name).symlink_to(path)
        else:
            shutil.copy(path, base)
    template = base / "chat_template.jinja"
    plain, content = template.read_text(), "message['content']"
    template.write_text(plain.replace(content, content + injected) if injected == BEHIND else injected + plain)

    def opened(*_: Any) -> None:
        raise AssertionError("the model was opened before its input was proved")

    monkeypatch.setattr("whet.backends.open.open_backend", opened)
    (place / "a.jsonl").write_bytes(jsonl(GOOD))
    (place / "r.yaml").write_text(f"base: {base}\n" + EXTRACTION + source())
    code, said = whet.run("train", "r.yaml", *settings, "-o", "run")
    assert code == 2, said
    assert f"whet: {base}: not so: the template adds no words of its own" in said
    assert "You are a kind assistant." in said
    assert remedy in said
    assert "Traceback" not in said
    assert not (place / "run" / "train" / "adapter").exists()


def started(*words: str) -> subprocess.Popen[str]:
    # Where the tests run in the background, Ctrl-C is switched off for their children too.
    # At its end it says its own peak: what the system tells of children counts the size of the parent at the fork, too.
    code = (
        "import atexit, pathlib, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "status = pathlib.Path('/proc/self/status')\n"
        "if status.exists(): atexit.register(lambda: print(status.read_text(), file=sys.stderr))\n"
        "from whet.cli.main import main; main()"
    )
    return subprocess.Popen([sys.executable, "-c", code, *words], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def build_at_work(place: Path) -> subprocess.Popen[str]:
    """A build of many rows, in the middle of its work."""
    process = started("data", "build", "r.yaml", "-o", "run")
    while not list(place.glob("run/.data.*.part/rows.spool")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    return process


def test_an_interrupted_build_leaves_nothing_and_can_be_done_again(whet: Whet, place: Path) -> None:
    (place / "r.yaml").write_text(EXTRACTION + source())
    (place / "a.jsonl").write_bytes(jsonl(MANY * 30))
    process = build_at_work(place)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode == 130
    assert "whet: stopped" in said
    assert "Traceback" not in said
    assert not list(place.glob("run/.data*"))
    assert not (place / "run/data").exists()

    process = build_at_work(place)
    process.kill()
    process.communicate()
    assert list(place.glob("run/.data.*.part"))
    (place / "a.jsonl").write_bytes(jsonl(GOOD))
    assert whet.run("data", "build", "r.yaml", "-o", "run")[0] == 0
    assert not list(place.glob("run/.data*"))
    assert {path.name for path in (place / "run/data").iterdir()} >= {"train.jsonl", "manifest.json"}


def test_a_line_of_200_mb_is_never_held(place: Path) -> None:
    with (place / "a.jsonl").open("wb") as file:
        file.write(jsonl(MANY) + b'{"messages": [{"role": "user", "content": "')
        for _ in range(200):
            file.write(b"x" * 2**20)
        file.write(b'"}]}\n')
    (place / "r.yaml").write_text(EXTRACTION + source())
    process = started("data", "build", "r.yaml", "-o", "run")
    said = process.communicate()[1]
    (place / "a.jsonl").unlink()
    assert process.returncode == 2, said
    assert "whet: a.jsonl:361: 1 of 361 rows can't be used" in said
    assert "a line of 209,715,2" in said
    assert "raise max_line_bytes" in said
    assert "Traceback" not in said
    [row] = kept(place)
    assert len(row["raw"]) == 500
    if peak := re.search(r"VmHWM:\s+(\d+) kB", said):  # Linux
        assert int(peak.group(1)) * 1024 < 700 * 2**20
