"""Traps planted in data and settings as other trainers' users write them are found with figures; healthy ones give no alarm."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from found import alarms, named

from whet.doctor.look import diagnose
from whet.errors import InputError

NAMES = ["蹇義", "夏原吉", "楊榮", "楊溥", "程富", "金幼孜", "王直", "陳循", "高穀", "商輅"]


def chat(asked: str, said: str, system: str = "") -> dict[str, Any]:
    head = [{"role": "system", "content": system}] if system else []
    return {"messages": [*head, {"role": "user", "content": asked}, {"role": "assistant", "content": said}]}


def question(number: int) -> str:
    return f"宣德{number}年，少師{NAMES[number % 10]}奏第{number * 37}事，{NAMES[number % 7]}與{NAMES[(number * 3) % 10]}議於{number * 11}處。"


def rows(start: int, count: int, system: str = "") -> list[dict[str, Any]]:
    return [chat(question(number), NAMES[number % 10], system) for number in range(start, start + count)]


def write(folder: Path, **splits: list[Any]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, values in splits.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in values))
    return folder


def test_healthy_data_of_every_format_give_no_alarm(tmp_path: Path) -> None:
    write(tmp_path / "chats", train=rows(0, 60), valid=rows(100, 10), test=rows(200, 10))
    completions = [{"prompt": question(number), "completion": NAMES[number % 10]} for number in range(40)]
    write(tmp_path / "completions", train=completions, test=[{"prompt": question(300), "completion": "無"}])
    records = [chat(question(n), json.dumps([{"name": NAMES[n % 10]}] if n % 5 else [], ensure_ascii=False)) for n in range(60)]
    write(tmp_path / "records", train=records, valid=rows(500, 3))
    for folder in ("chats", "completions", "records"):
        found = diagnose([tmp_path / folder], "embedded", max_length=400)
        assert not alarms(found), found.findings


def test_a_base_that_is_not_there_is_said_and_never_passes_for_health(tmp_path: Path) -> None:
    data = write(tmp_path / "data", train=rows(0, 20), valid=rows(20, 5))
    with pytest.raises(InputError, match="no such folder"):
        diagnose([data], tmp_path / "none")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "tokenizer.json").write_text("{")
    assert named(diagnose([data], broken), "not looked at").severity == "note"


def test_rows_of_valid_that_stand_in_train_are_counted(tmp_path: Path) -> None:
    """A published pipeline converted all rows as train and then copied 10 % of them as valid and test."""
    train = rows(0, 100)
    found = diagnose([write(tmp_path / "data", train=train, valid=train[:7] + rows(200, 3))])
    leak = named(found, "leak")
    assert leak.severity == "error"
    assert "7 of 10 (70%) rows of valid also stand in train" in leak.what
    assert leak.place.endswith("valid.jsonl:1")


def test_a_leak_in_another_script_and_with_other_signs_is_one(tmp_path: Path) -> None:
    near = chat(question(3).replace("。", "!").replace("處", "处").replace("義", "义"), "x")
    found = diagnose([write(tmp_path / "data", train=rows(0, 30), test=[near, *rows(200, 5)])])
    assert "1 of 6" in named(found, "leak").what


def test_rows_of_another_shape_and_rows_that_are_lost_are_counted(tmp_path: Path) -> None:
    mixed = [
        *rows(0, 20),
        {"instruction": "甲", "output": "乙"},
        {"text": "甲", "completion": "乙"},
        {"promt": "a", "completion": "b"},
    ]
    found = diagnose([write(tmp_path / "data", train=mixed)])
    assert "2 of 23" in named(found, "mixed shapes").what or "3 of 23" in named(found, "mixed shapes").what
    lost = [finding for finding in found.findings if finding.name == "rows that are lost"]
    assert any("popular trainer reads as plain text" in finding.what and finding.severity == "error" for finding in lost)
    assert any("Rename promt to prompt" in finding.remedy for finding in lost)


def test_golds_that_do_not_stand_in_the_text_are_counted_and_free_ones_are_no_fault(tmp_path: Path) -> None:
    def record(number: int, name: str) -> dict[str, Any]:
        return chat(question(number), json.dumps([{"name": name, "event": "Other"}], ensure_ascii=False))

    train = [record(number, NAMES[number % 10] if number >= 4 else "某人") for number in range(50)] + [chat("無事。", "[]")]
    found = diagnose([write(tmp_path / "data", train=train)])
    assert "4 of 50 (8%) values of name" in named(found, "gold that is not in the text").what
    assert not any("event" in finding.what for finding in found.findings)


def test_only_positives_are_named(tmp_path: Path) -> None:
    train = [chat(question(n), json.dumps([{"name": NAMES[n % 10]}], ensure_ascii=False)) for n in range(40)]
    assert "none of the 40 answers" in named(diagnose([write(tmp_path / "data", train=train)]), "no negatives").what


def test_another_prompt_in_test_than_in_train_is_an_error(tmp_path: Path) -> None:
    found = diagnose([write(tmp_path / "data", train=rows(0, 20, "你是史官。"), test=rows(100, 5, "You are helpful."))])
    assert "你是史官" in named(found, "another prompt").what


def test_unreviewed_output_of_a_model_is_an_error_and_corrected_is_not(tmp_path: Path) -> None:
    open_ = [{"document_id": n, "model_output": {"a": 1}, "validation": {}, "needs_review": False} for n in range(6)]
    done = [{"document_id": n, "extracted_data": [{"field_name": "a", "value": "b"}], "correction": {"a": "c"}} for n in range(4)]
    (tmp_path / "active_learning.jsonl").write_text("".join(json.dumps(row) + "\n" for row in open_ + done))
    found = named(diagnose([tmp_path / "active_learning.jsonl"]), "unreviewed output")
    assert "6 of 10 (60%)" in found.what
    assert "6 of them say that no review is needed, and no check ran" in found.what


def test_two_answers_to_one_question_and_mixed_normal_forms_are_counted(tmp_path: Path) -> None:
    train = rows(0, 20) + [chat(question(n), "另") for n in range(5)]
    assert "5 of 20 (25%)" in named(diagnose([write(tmp_path / "data", train=train)]), "two golds for one question").what
    letters = ["e\u0301", "\u00e9", "\u00e9", "\u00e9"]
    loose = [chat(f"caf{letters[n % 4]} number {n} of the long street {n * 7}", f"{n}") for n in range(40)]
    assert "10 of 40" in named(diagnose([write(tmp_path / "forms", train=loose)]), "mixed normal forms").what


def settings(folder: Path, **values: Any) -> Path:
    path = folder / "lora.yaml"
    path.write_text(yaml.safe_dump({"model": "base", "iters": 100, "num_layers": 4, "batch_size": 2} | values))
    return path


@pytest.mark.parametrize("base", ["embedded", None])
def test_the_share_of_the_loss_that_is_on_the_prompt_is_measured(tmp_path: Path, base: str | None) -> None:
    data = write(tmp_path / "data", train=rows(0, 30), valid=rows(100, 5))
    found = diagnose([settings(tmp_path, data=str(data)), data], base)
    finding = next(one for one in found.findings if one.name == "loss on the prompt" and "%" in one.what)
    percent = int(finding.what.partition("%")[0])
    assert percent > 80
    assert ("tokens" if base else "characters") in finding.what
    healthy = diagnose([settings(tmp_path, data=str(data), mask_prompt=True, max_seq_length=512), data], base)
    assert not alarms(healthy), healthy.findings


@pytest.mark.integration
def test_the_share_is_that_of_mlx_lm_itself(tmp_path: Path, base: Any) -> None:
    from types import SimpleNamespace

    from mlx_lm.tuner.datasets import create_dataset
    from transformers import AutoTokenizer

    train = rows(0, 20)
    data = write(tmp_path / "data", train=train)
    found = diagnose([settings(tmp_path, data=str(data)), data], base.folder)
    finding = next(one for one in found.findings if one.name == "loss on the prompt" and "%" in one.what)
    theirs = create_dataset(train, AutoTokenizer.from_pretrained(base.folder), SimpleNamespace(mask_prompt=True))
    counted = [theirs.process(row) for row in train]
    prompt = sum(offset for _, offset in counted)
    assert f"({prompt:,} of " in finding.what


def test_answers_that_are_cut_by_the_limit_are_counted(tmp_path: Path) -> None:
    data = write(tmp_path / "data", train=[*rows(0, 20), chat("長" * 200, "短")])
    found = diagnose([settings(tmp_path, data=str(data), mask_prompt=True, max_seq_length=128), data], "embedded")
    cut = named(found, "cut answers")
    assert "1 of 21 (5%) rows of train have more than 128 tokens" in cut.what
    assert cut.place.endswith("train.jsonl:21")


def test_keys_that_do_nothing_are_errors_with_their_line(tmp_path: Path) -> None:
    path = settings(
        tmp_path,
        mask_prompt=True,
        lora_layers=8,
        learning_rate=1e-3,
        lr_schedule={"name": "cosine_decay", "arguments": [1e-5, 50]},
    )
    found = [one for one in diagnose([path]).findings if one.name == "a setting that does nothing"]
    assert any("lora_layers: 8" in one.what and "num_layers" in one.why and one.place.startswith(f"{path}:") for one in found)
    assert any("learning_rate: 0.001 does nothing beside lr_schedule" in one.what for one in found)


def test_packed_rows_that_see_each_other_are_named(tmp_path: Path) -> None:
    path = tmp_path / "lf.yaml"
    values = {"model_name_or_path": "base", "stage": "sft", "finetuning_type": "lora", "cutoff_len": 512, "template": "qwen",
              "dataset": "a", "packing": True}  # fmt: skip
    path.write_text(yaml.safe_dump(values))
    assert named(diagnose([path]), "rows that see each other")
    path.write_text(yaml.safe_dump(values | {"neat_packing": True}))
    assert not [one for one in diagnose([path]).findings if one.name == "rows that see each other"]


def test_a_mark_of_the_template_inside_a_text_is_named(tmp_path: Path) -> None:
    data = write(tmp_path / "data", train=[*rows(0, 20), chat("<|im_end|>甲", "乙")])
    assert "'<|im_end|>', a mark of the chat template" in named(diagnose([data], "embedded"), "rows that can't be rendered").what


def test_offsets_that_point_elsewhere_are_counted_and_true_ones_are_quiet(tmp_path: Path) -> None:
    def row(number: int, by: int) -> dict[str, Any]:
        text = question(number)
        at = text.index("少師") + by
        return {"tokens": text, "entities": [{"type": "OFI", "start": at, "end": at + 2, "span": "少師"}], "relations": []}

    (tmp_path / "train.json").write_text(json.dumps([row(number, number % 5 == 0) for number in range(50)]))
    found = named(diagnose([tmp_path / "train.json"]), "offsets that point elsewhere")
    assert "10 of 50 (20%)" in found.what
    assert "10 of them are off by one" in found.what
    (tmp_path / "train.json").write_text(json.dumps([row(number, 0) for number in range(50)]))
    assert not alarms(diagnose([tmp_path / "train.json"]))


def test_a_file_of_all_rows_beside_the_splits_is_no_leak(tmp_path: Path) -> None:
    train, valid = rows(0, 30), rows(100, 5)
    assert not alarms(diagnose([write(tmp_path / "data", train=train, valid=valid, all=train + valid)]))


def test_other_wordings_of_one_answer_are_no_quarrel(tmp_path: Path) -> None:
    said = ["It was the Eagles of Philadelphia who won the game.", "The winner of the game was the team from Philadelphia."]
    train = [chat(f"Who won game {n // 2} of the year {n // 2 * 7}?", said[n % 2]) for n in range(40)]
    assert not alarms(diagnose([write(tmp_path / "data", train=train)]))


def test_accumulation_that_averages_averages_is_noted(tmp_path: Path) -> None:
    found = diagnose([settings(tmp_path, mask_prompt=True, grad_accumulation_steps=4)])
    assert "batch_size: 2, grad_accumulation_steps: 4" in named(found, "averages of averages").what


def test_splits_are_told_by_folders_too_and_folders_within_are_named(tmp_path: Path) -> None:
    for split, values in {"train": rows(0, 20), "test": rows(0, 10)}.items():
        write(tmp_path / split, part=values)
    found = named(diagnose([tmp_path / "train", tmp_path / "test"]), "leak")
    assert found.severity == "error"
    assert found.what.startswith("10 of 10 (100%) rows of test also stand in train")
    write(tmp_path, other=rows(100, 5))
    assert {Path(one.place).name for one in diagnose([tmp_path]).findings if one.name == "not looked at"} == {"train", "test"}


def test_rows_that_were_not_read_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whet.doctor.splits.MOST_ROWS", 5)
    found = diagnose([write(tmp_path, train=rows(0, 6))])
    assert [one.what for one in found.findings if one.name == "not looked at"] == ["rows after the first 5"]
    assert not diagnose([write(tmp_path, train=rows(0, 5))]).findings


def test_a_prompt_that_llama_factory_learns_is_weighed(tmp_path: Path) -> None:
    path = tmp_path / "sft.yaml"
    said = {"model_name_or_path": "x", "stage": "sft", "finetuning_type": "lora", "template": "qwen", "dataset": "a"}
    data = write(tmp_path / "data", train=rows(0, 30), valid=rows(50, 5))
    path.write_text(yaml.safe_dump(said | {"train_on_prompt": True}))
    found = [one for one in diagnose([path, data], "embedded").findings if one.name == "loss on the prompt"]
    assert [one.severity for one in found] == ["error", "warning"]
    assert "% of the loss is on the prompt" in found[0].what
    path.write_text(yaml.safe_dump(said))
    assert not alarms(diagnose([path, data], "embedded"))


def test_batches_that_are_left_out_are_named(tmp_path: Path) -> None:
    path = tmp_path / "sft.yaml"
    said = {"model_name_or_path": "base", "dataset_name": "data", "max_length": 512, "completion_only_loss": True}
    path.write_text(yaml.safe_dump(said | {"dataloader_drop_last": True}))
    assert named(diagnose([path]), "rows that are never trained").place.startswith(f"{path}:")
    path.write_text(yaml.safe_dump(said))
    assert not alarms(diagnose([path]))
