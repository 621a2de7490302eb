"""Small corpora, recipes and the command line, for tests that plant a fault in a user's files."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from whet.cli.main import main

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


def kept(place: Path, name: str = "rejects") -> list[dict[str, Any]]:
    """The rows that were set aside."""
    return [json.loads(line) for line in (place / "run" / f"data.{name}.jsonl").read_text("utf-8").splitlines()]
