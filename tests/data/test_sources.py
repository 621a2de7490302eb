"""Real corpora: each row is an example or a reject, and the counts are those of another reading of the raw files."""

import collections
import csv
import json
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from seqeval.metrics.sequence_labeling import get_entities

from whet.config import Settings, load
from whet.data.rows import Reject, Tally
from whet.data.sources import Source, read
from whet.records import Example

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SOURCE = TypeAdapter(Source)
real = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data, the folder of real corpora, is not beside this checkout")


def read_all(**options):
    tally = Tally()
    rows = list(read(SOURCE.validate_json(json.dumps(options), strict=True), DATA, tally))
    return rows, tally


def examples(**options):
    rows, _ = read_all(**options)
    assert not [row for row in rows if isinstance(row, Reject)]
    return rows


def grounded(example):
    """Whether every span value is what stands at its place."""
    return all(
        value is None or value.span is None or example.text[value.span.start : value.span.end] == value.text
        for record in example.records
        for value in record.values()
    )


@pytest.mark.integration
@real
@pytest.mark.parametrize("name", ["train", "dev", "test"])
def test_chisiec_columns_agree_with_seqeval(name):
    path = DATA / "chisiec" / "ner" / f"{name}.txt"
    wanted = collections.Counter()
    texts = []
    for block in path.read_text(encoding="utf-8").strip().split("\n\n"):
        if not block.strip():
            continue
        pairs = [line.split("\t") for line in block.strip("\n").split("\n")]
        texts.append("".join(token for token, _ in pairs))
        for kind, start, end in get_entities([tag for _, tag in pairs]):
            wanted[len(texts) - 1, texts[-1][start : end + 1], kind, start] += 1
    rows = examples(reader="columns", path=str(path))
    assert [row.text for row in rows] == texts
    assert (
        collections.Counter(
            (number, record["text"].text, record["type"].text, record["text"].span.start)
            for number, row in enumerate(rows)
            for record in row.records
        )
        == wanted
    )
    assert all(map(grounded, rows))


@pytest.mark.integration
@real
def test_chisiec_relations_agree_with_the_file():
    num_pairs = 0
    for name in ("train", "dev", "test"):
        raw = json.loads((DATA / "chisiec" / "re" / f"{name}.json").read_text(encoding="utf-8"))
        rows = examples(reader="standoff", path=f"chisiec/re/{name}.json", relation="任职", group_key="orig_id")
        assert [row.text for row in rows] == [row["tokens"] for row in raw]
        for row, given in zip(rows, raw, strict=True):
            at = [given["tokens"][entity["start"] : entity["end"]] for entity in given["entities"]]
            wanted = sorted((at[r["head"]], at[r["tail"]]) for r in given["relations"] if r["type"] == "任职")
            assert sorted((r["name"].text, r["office"].text) for r in row.records) == wanted
            starts = [record["name"].span.start for record in row.records]
            assert starts == sorted(starts)
            assert grounded(row)
            num_pairs += len(wanted)
        assert len({row.group for row in rows}) == len({row["orig_id"] for row in raw})
    assert num_pairs == 2592


@real
def test_chisiec_spans_of_other_text_are_counted():
    """Variants such as 餘/馀 and 徵/征, which OpenCC does not bring together; no offset has gone wrong."""
    _, tally = read_all(reader="standoff", path="chisiec/re/train.json")
    assert tally["rows whose span differs from the text by more than script"] == 18


@real
@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("formats/alpaca_en_demo.json", lambda row: row["output"]),
        ("formats/alpaca_zh_demo.json", lambda row: row["output"]),
        ("formats/identity.json", lambda row: row["output"]),
        ("formats/glaive_toolcall_en_demo.json", lambda row: row["conversations"][-1]["value"]),
    ],
)
def test_trainers_demo_files(name, last):
    raw = json.loads((DATA / name).read_text(encoding="utf-8"))
    rows = examples(reader="examples", path=name)
    assert [row.messages[-1].content for row in rows] == [last(row) for row in raw]
    lines = (DATA / name).read_text(encoding="utf-8").split("\n")
    assert all(lines[int(row.source.rpartition(":")[2]) - 1].strip() == "{" for row in rows)


@real
def test_tool_turns_keep_their_roles():
    raw = json.loads((DATA / "formats/glaive_toolcall_en_demo.json").read_text(encoding="utf-8"))
    rows = examples(reader="examples", path="formats/glaive_toolcall_en_demo.json")
    roles = {"human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "tool"}
    for row, given in zip(rows, raw, strict=True):
        turns = [message for message in row.messages if message.role != "system"]
        assert [(m.role, m.content) for m in turns] == [(roles[t["from"]], t["value"]) for t in given["conversations"]]
        assert (row.messages[0].role == "system") == (json.loads(given["tools"]) != [])


@real
@pytest.mark.parametrize(
    ("name", "number", "words"),
    [("dpo_en_demo", 300, "preference"), ("mllm_demo", 6, "images"), ("dataset_info", 1, "no known format")],
)
def test_what_can_not_be_learnt_from_is_rejected(name, number, words):
    rows, _ = read_all(reader="examples", path=f"formats/{name}.json")
    assert len(rows) == number
    assert all(isinstance(row, Reject) and words in row.seen for row in rows)


@real
@pytest.mark.parametrize(
    ("path", "text", "answer"),
    [
        ("superbowl/train.jsonl", "prompt", "completion"),
        ("superbowl/valid.jsonl", "prompt", "completion"),
        ("gsm8k/test.jsonl", "question", "answer"),
        ("wikisql/train.jsonl", "text", None),
    ],
)
def test_line_files(path, text, answer):
    raw = [json.loads(line) for line in (DATA / path).read_text(encoding="utf-8").splitlines()]
    rows = examples(reader="examples", path=path)
    assert [row.text for row in rows] == [row[text] for row in raw]
    assert [row.messages[-1].content if row.messages else None for row in rows] == [row.get(answer) for row in raw]
    assert [row.source for row in rows] == [f"{path}:{number}" for number in range(1, len(raw) + 1)]


@pytest.mark.integration
@real
@pytest.mark.parametrize(("folder", "number"), [("dev", 285), ("test", 14_042)])
def test_mmlu(folder, number):
    wanted = []
    for path in sorted((DATA / "mmlu" / folder).glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                choices = tuple(row[f"choice{n}"].replace("\r\n", "\n") for n in range(4))
                category = path.stem.removesuffix(f"_{folder}")
                wanted.append((category, row["question"].replace("\r\n", "\n"), choices, int(row["answer"])))
    rows = examples(reader="examples", path=f"mmlu/{folder}")
    assert [(row.category, row.text, row.choices, row.answer) for row in rows] == wanted
    assert len(rows) == number


@real
def test_cybermetric():
    for size in (80, 2000):
        path = DATA / "cybermetric" / f"CyberMetric-{size}-v1.json"
        raw = json.loads(path.read_text(encoding="utf-8"))["questions"]
        rows = examples(reader="examples", path=str(path))
        assert [(r.text, r.choices[r.answer]) for r in rows] == [(q["question"], q["answers"][q["solution"]]) for q in raw]
        assert len(rows) == size


class _Recipe(Settings):
    sources: tuple[Source, ...]


def test_a_recipe_names_its_sources(tmp_path):
    (tmp_path / "a.txt").write_text("<P>蹇義</P>卒\n", encoding="utf-8")
    raw = {"sources": [
        {"reader": "inline", "path": "a.txt", "tags": {"name": {"tag": "P"}}, "split": "test", "as_published": True},
        {"reader": "ming_csv", "path": "a.csv", "fields": {"rank": "office"}},
    ]}  # fmt: skip
    recipe = load(_Recipe, raw, {}, "recipe.yaml")
    [example] = read(recipe.sources[0], tmp_path)
    assert isinstance(example, Example)
    assert example.records[0]["name"].text == "蹇義"
    assert recipe.sources[1].fields.rank == "office"
