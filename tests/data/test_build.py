"""Data folders: every row is counted, planted faults are named, the same input gives the same bytes."""

import hashlib
import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from whet.config import load
from whet.data.build import DataSettings, build, read_manifest
from whet.errors import InputError
from whet.records import example_from_json
from whet.storage import read_jsonl
from whet.tasks.extraction import Extraction, ExtractionSettings, FieldSettings

EVENT = FieldSettings(name="event", kind="choice", choices=("Death", "Other"), nullable=True)
TASK = Extraction(ExtractionSettings(fields=(FieldSettings(name="name"), EVENT)))
CHARS = [chr(code) for code in range(0x4E00, 0x4E00 + 400)]
SPLIT_NAMES = ("train", "valid", "test")


def chat(text, *names, reply=None):
    gold = json.dumps([{"name": name, "event": None} for name in names], ensure_ascii=False)
    reply = gold if reply is None else reply
    return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": reply}]}


def texts(num, seed=1, length=40):
    rng = random.Random(seed)
    return ["".join(rng.choices(CHARS, k=length)) for _ in range(num)]


def rows_of(num, seed=1):
    return [chat(text, text[3:6]) for text in texts(num, seed)]


def write(path, rows):
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines))


def made(folder, files, token_limit=None, progress=None, **said):
    """Build from JSONL files: name to rows, or to (rows, settings of the source)."""
    sources = []
    for name, said_of in files.items():
        rows, source = said_of if isinstance(said_of, tuple) else (said_of, {})
        write(folder / name, rows)
        sources.append({"reader": "examples", "path": name} | source)
    wanted = load(DataSettings, {"sources": sources} | said, {}, "recipe")
    return build(wanted, TASK, folder / "data", lambda example: len(example.text), token_limit, progress, folder)


def split_rows(folder):
    return {name: list(read_jsonl(folder / "data" / f"{name}.jsonl")) for name in SPLIT_NAMES}


def rejects(folder):
    return list(read_jsonl(folder / "data" / "rejects.jsonl"))


def refused(folder, files, **said):
    with pytest.raises(InputError) as caught:
        made(folder, files, **said)
    assert not (folder / "data").exists()
    assert {path.name for path in folder.iterdir()} <= {*files, "data.rejects.jsonl", "data.leaks.jsonl"}
    return str(caught.value)


def conserves(funnel):
    return funnel["read"] == sum(number for stage, number in funnel.items() if stage not in ("read", "moved_for_leak"))


def test_a_whole_build(tmp_path):
    told = []
    manifest = made(tmp_path, {"a.jsonl": rows_of(100)}, progress=lambda stage, number: told.append((stage, number)))
    folder = tmp_path / "data"
    assert sorted(path.name for path in folder.iterdir()) == [
        "leaks.jsonl", "manifest.json", "rejects.jsonl", "test.jsonl", "train.jsonl", "valid.jsonl",
    ]  # fmt: skip
    assert read_manifest(folder) == manifest
    assert {name: len(rows) for name, rows in split_rows(tmp_path).items()} == {"train": 80, "valid": 10, "test": 10}
    first = example_from_json(split_rows(tmp_path)["train"][0])
    assert first.text[3:6] == first.records[0]["name"].text
    assert manifest.sources[0]["files"] == {"a.jsonl": hashlib.sha256((tmp_path / "a.jsonl").read_bytes()).hexdigest()}
    assert manifest.statistics["test"] == {
        "examples": 10, "records": 10, "negatives": 0, "characters": 400, "tokens": 400,
    }  # fmt: skip
    assert manifest.leaks["num_found"] == 0
    assert told[0][0] == "read"
    assert told[-1] == ("write", 100)


def test_the_split_hash_is_that_of_sorted_ids_and_splits(tmp_path):
    manifest = made(tmp_path, {"a.jsonl": rows_of(20)})
    pairs = [[row["id"], name] for name, rows in split_rows(tmp_path).items() for row in rows]
    lines = sorted(json.dumps(pair, separators=(",", ":"), ensure_ascii=False) for pair in pairs)
    assert manifest.split_hash == hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_the_same_input_and_settings_give_the_same_bytes(tmp_path):
    def contents(name):
        folder = tmp_path / name
        folder.mkdir()
        rows = [*rows_of(30), *rows_of(5), chat("甲乙", reply="?")]
        made(folder, {"a.jsonl": rows}, max_bad_share=0.1)
        return {path.name: path.read_bytes() for path in (folder / "data").iterdir()}

    assert contents("one") == contents("two")


def test_building_again_replaces_the_folder(tmp_path):
    made(tmp_path, {"a.jsonl": rows_of(30)})
    (tmp_path / "data" / "stale").write_text("")
    (tmp_path / "data.leaks.jsonl").write_text("of an earlier failure")
    assert made(tmp_path, {"a.jsonl": rows_of(10)}).funnel["read"] == 10
    assert {path.name for path in tmp_path.iterdir()} == {"a.jsonl", "data"}
    assert not (tmp_path / "data" / "stale").exists()


def test_nothing_is_lost(tmp_path):
    good = rows_of(20)
    text = good[0]["messages"][0]["content"]
    bad = [
        '{"messages": [', {"unknown": "甲"}, chat("不是記錄", reply="沒有"), chat("甲乙丙", "丁"),
        chat("  "), chat(text[:8] * 20, text[:2]), chat(f"「{text}」", text[3:6]),
        chat(text, text[:2]), chat(text + "終", text[:2]), *[chat(each) for each in texts(4, seed=9)],
    ]  # fmt: skip
    tags = {"name": {"tag": "P"}, "event": {"tag": "E"}}
    files = {"a.jsonl": [*good, *bad], "b.txt": (["<E>War</E><P>甲</P>乙丙"], {"reader": "inline", "tags": tags})}
    manifest = made(
        tmp_path, files, token_limit=100, max_bad_share=0.5,
        clean=dict.fromkeys(("over_long", "ungrounded", "choice", "near_duplicates"), "drop") | {"negative_share": 0.1},
    )  # fmt: skip
    funnel = {stage: number for stage, number in manifest.funnel.items() if stage not in SPLIT_NAMES}
    assert funnel == {
        "read": 34, "rejected": 2, "not_adopted": 1, "empty": 1, "over_long": 1, "ungrounded": 1, "choice": 1,
        "exact_duplicate": 1, "conflicting": 1, "near_duplicate": 1, "negative": 2, "moved_for_leak": 0,
    }  # fmt: skip
    assert conserves(manifest.funnel)
    counts = [source["counts"] for source in manifest.sources]
    assert {stage: sum(each[stage] for each in counts) for stage in counts[0]} | {"moved_for_leak": 0} == manifest.funnel
    said = {row["stage"]: row for row in rejects(tmp_path)}
    assert len(rejects(tmp_path)) == 12
    assert {stage: row["place"] for stage, row in said.items() if stage != "negative"} == {
        "rejected": "a.jsonl:22", "not_adopted": "a.jsonl:23", "ungrounded": "a.jsonl:24", "choice": "b.txt:1",
        "empty": "a.jsonl:25", "over_long": "a.jsonl:26", "exact_duplicate": "a.jsonl:27", "conflicting": "a.jsonl:28",
        "near_duplicate": "a.jsonl:29",
    }  # fmt: skip
    assert "a.jsonl:1" in said["conflicting"]["seen"]
    assert said["over_long"]["row"]["text"] == text[:8] * 20


FAULTS = ("again", "conflict", "near", "negative", "ungrounded", "unread", "bad", "long")
fault = st.sampled_from(["good", "good", "good", *FAULTS])


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(fault, st.sampled_from([None, *SPLIT_NAMES])), min_size=1, max_size=40),
    st.sampled_from(["drop", "keep"]),
    st.sampled_from([None, 0.0, 0.3]),
    st.booleans(),
)
def test_the_funnel_accounts_for_every_row(tmp_path, plan, policy, share, by_group):
    pool = texts(len(plan), seed=7)
    files = {f"{split}.jsonl": ([], {"split": split}) for split in (None, *SPLIT_NAMES)}
    for at, (kind, split) in enumerate(plan):
        text, before = pool[at], pool[at - 1]
        files[f"{split}.jsonl"][0].append({
            "good": chat(text, text[:2]), "again": chat(before, before[:2]), "conflict": chat(before, before[2:4]),
            "near": chat(before + "終", before[:2]), "negative": chat(text), "ungrounded": chat(text, "丁丁丁"),
            "unread": chat(text, reply="War"), "bad": {"unknown": at}, "long": chat(text * 5, text[:2]),
        }[kind])  # fmt: skip
    files = {name: said for name, said in files.items() if said[0]}
    kinds = ("ungrounded", "choice", "over_long", "duplicates", "near_duplicates")
    conflicting = "keep" if policy == "keep" else "first"
    try:
        manifest = made(
            tmp_path, files, token_limit=100, max_bad_share=1.0,
            clean=dict.fromkeys(kinds, policy) | {"negative_share": share, "conflicting": conflicting},
            split={"leaks": "move", "keep_near_together": by_group, "group_by": "group" if by_group else "text"},
        )  # fmt: skip
    except InputError as error:
        assert "no examples are left in" in str(error)
        return
    assert conserves(manifest.funnel)
    assert manifest.funnel["read"] == len(plan)
    assert len(rejects(tmp_path)) == sum(
        number for stage, number in manifest.funnel.items() if stage not in ("read", "moved_for_leak", *SPLIT_NAMES)
    )
    assert manifest.leaks["num_left"] == 0
    rows = split_rows(tmp_path)
    assert {name: len(rows[name]) for name in SPLIT_NAMES} == {name: manifest.funnel[name] for name in SPLIT_NAMES}
    ids = [row["id"] for name in SPLIT_NAMES for row in rows[name]]
    assert len(ids) == len(set(ids))


def test_too_many_bad_rows_stop_the_build_and_are_kept(tmp_path):
    said = refused(tmp_path, {"a.jsonl": [*rows_of(20), {"text": "甲", "completion": "乙"}, chat("甲", reply="?")]})
    assert said.startswith("a.jsonl:21: 2 of 22 rows can't be used")
    assert "data.max_bad_share" in said
    assert "a.jsonl:22: " in said
    kept = list(read_jsonl(tmp_path / "data.rejects.jsonl"))
    assert [row["place"] for row in kept] == ["a.jsonl:21", "a.jsonl:22"]
    assert str(tmp_path / "data.rejects.jsonl") in said


@pytest.mark.parametrize(
    ("row", "kind", "words"),
    [
        (chat("甲乙丙", "丁"), "ungrounded", "does not stand in the text"),
        (chat("甲" * 101, "甲"), "over_long", "101 tokens with its answer; the limit is 100"),
    ],
)
def test_faulty_gold_stops_the_build_with_place_and_remedy(tmp_path, row, kind, words):
    said = refused(tmp_path, {"a.jsonl": [*rows_of(10), row]}, token_limit=100)
    assert said.startswith("a.jsonl:11: 1 row ")
    assert words in said
    assert f"data.clean.{kind}=drop" in said
    assert [kept["stage"] for kept in read_jsonl(tmp_path / "data.rejects.jsonl")] == [kind]


def test_faults_that_are_kept_are_counted(tmp_path):
    manifest = made(tmp_path, {"a.jsonl": [*rows_of(10), chat("甲乙丙", "丁")]}, clean={"ungrounded": "keep"})
    assert manifest.faults == {"ungrounded": 1}
    assert manifest.funnel["ungrounded"] == 0


def test_conflicting_gold_can_stop_the_build(tmp_path):
    rows = rows_of(10)
    text = rows[4]["messages"][0]["content"]
    said = refused(tmp_path, {"a.jsonl": [*rows, chat(text + "。", text[:2])]}, clean={"conflicting": "stop"})
    assert said.startswith("a.jsonl:11: 1 row with conflicting gold")
    assert "a.jsonl:5" in said
    assert "data.clean.conflicting=first" in said


def given_splits(valid, **source):
    return {"t.jsonl": (rows_of(30), {"split": "train"}), "v.jsonl": (valid, {"split": "valid"} | source)}


@pytest.mark.parametrize(("change", "kind"), [(lambda t: t, "exact"), (lambda t: t[:9] + "，" + t[9:], "normalised"),
                                              (lambda t: t[:-1], "near")])  # fmt: skip
def test_a_leak_stops_the_build_or_is_moved(tmp_path, change, kind):
    text = texts(30)[7]
    valid = [*rows_of(5, seed=2), chat(change(text), text[3:6])]
    said = refused(tmp_path, given_splits(valid))
    assert said.startswith(f"v.jsonl:6: 1 example leaks between splits, {kind} 1 (train-valid)")
    assert "v.jsonl:6 (valid) and t.jsonl:8 (train)" in said
    assert "data.split.leaks=move" in said
    [pair] = read_jsonl(tmp_path / "data.leaks.jsonl")
    assert (pair["kind"], pair["place"], pair["partner_place"]) == (kind, "v.jsonl:6", "t.jsonl:8")

    manifest = made(tmp_path, given_splits(valid), split={"leaks": "move"})
    assert manifest.funnel["moved_for_leak"] == 1
    assert manifest.funnel["valid"] == 5
    assert manifest.funnel["exact_duplicate"] == (kind != "near")
    assert manifest.leaks["num_found"] == 1
    assert manifest.leaks["num_left"] == 0
    assert [pair["kind"] for pair in manifest.leaks["pairs"]] == [kind]
    assert not (tmp_path / "data.leaks.jsonl").exists()


def test_leaks_of_a_published_split_are_reported(tmp_path):
    rows = rows_of(30)[:3]
    manifest = made(tmp_path, given_splits([*rows_of(5, seed=2), *rows, *rows], as_published=True))
    assert manifest.funnel["valid"] == 11
    assert manifest.leaks["found"]["exact"] == {"train-valid": 6}
    assert manifest.leaks["num_reported_only"] == manifest.leaks["num_left"] == 6
    assert len(list(read_jsonl(tmp_path / "data" / "leaks.jsonl"))) == 6


def test_repeated_ids_are_told_apart(tmp_path):
    row = rows_of(1)
    made(tmp_path, {"a.jsonl": [*row, *row, *rows_of(8, seed=2)]}, clean={"duplicates": "keep"})
    ids = [each["id"] for rows in split_rows(tmp_path).values() for each in rows]
    assert len(ids) == len(set(ids)) == 10
    assert sum(name.endswith("#2") for name in ids) == 1


def test_an_empty_split_is_refused_with_the_funnel(tmp_path):
    said = refused(tmp_path, given_splits([chat("甲乙")] * 3), clean={"negative_share": 0.0})
    assert "no examples are left in valid" in said
    assert "negative 1" in said
    assert "exact_duplicate 2" in said


def test_preparation_comes_before_everything_else(tmp_path):
    made(tmp_path, {"a.jsonl": [chat("少师蹇义卒", "蹇义"), *rows_of(20)]}, prepare={"script": "traditional"})
    [row] = [row for rows in split_rows(tmp_path).values() for row in rows if "蹇" in row["text"]]
    assert row["text"] == "少師蹇義卒"
    assert row["records"][0]["name"] == {"text": "蹇義", "start": 2, "end": 4}
