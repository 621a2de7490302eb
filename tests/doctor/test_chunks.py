"""Documents cut in overlapping chunks: found where a document came to two splits, quiet where each is in one."""

import json
import random
from pathlib import Path

import pytest

from whet.doctor.look import Diagnosis, diagnose

LETTERS = "宣德九年少師蹇義卒永樂洪武行在監察御史程富升大理寺左卿奏曰詔從之遣使祭葬如例命巡撫河南山西等處"
ASK = (
    "請從以下文本中提取官員資訊，輸出為 JSON List；沒有官員時輸出空列表，不要解釋，不要遺漏任何人名與官職，人名須逐字取自原文。\n"
)


def documents(count: int, size: int = 1500) -> list[str]:
    chance = random.Random(3)
    return ["".join(chance.choice(LETTERS) for _ in range(size)) for _ in range(count)]


def chunks(text: str, size: int = 300, overlap: int = 60) -> list[str]:
    """As the published pipeline cuts them, in smaller."""
    return [text[at : at + size] for at in range(0, len(text) - overlap, size - overlap)]


def write(folder: Path, splits: dict[str, list[str]], ask: str = "") -> Path:
    folder.mkdir()
    for name, texts in splits.items():
        rows = [{"instruction": "", "input": "", "output": "無"} | {"instruction": ask + text} for text in texts]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return folder


def named(found: Diagnosis) -> list[str]:
    return [finding.what for finding in found.findings if finding.name == "one document in two splits"]


@pytest.mark.parametrize("ask", ["", ASK])
def test_chunks_of_one_document_in_two_splits_are_counted(ask: str, tmp_path: Path) -> None:
    pieces = [piece for text in documents(12) for piece in chunks(text)]
    random.Random(1).shuffle(pieces)
    [what] = named(diagnose([write(tmp_path / "data", {"train": pieces[12:], "test": pieces[:12]}, ask)]))
    assert "rows of test begin or end with 48 characters of train" in what
    assert int(what.partition(" ")[0]) >= 9


@pytest.mark.parametrize("ask", ["", ASK])
def test_a_split_by_document_is_quiet(ask: str, tmp_path: Path) -> None:
    texts = documents(12)
    splits = {
        "train": [piece for text in texts[2:] for piece in chunks(text)],
        "test": [piece for text in texts[:2] for piece in chunks(text)],
    }
    found = diagnose([write(tmp_path / "data", splits, ask)])
    assert not named(found)
    assert not [finding for finding in found.findings if finding.severity != "note"], found.findings
