"""How much of the loss is on the prompt, under settings of TRL's and Unsloth's, by the shape of the rows; against TRL itself."""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from found import alarms

from whet.doctor.finding import Finding
from whet.doctor.look import Diagnosis, diagnose
from whet.models.base_model import BaseModel

ASKED = "宣德{0}年，少師奏第{0}事於{0}處。請列出其中的人名，一行一名，不得有誤。"


def question(number: int) -> str:
    return ASKED.format(number * 37 + 11)


def messages(number: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question(number)}, {"role": "assistant", "content": f"程{number}"}]}


def shaped(shape: str, number: int) -> dict[str, Any]:
    """A row as users of TRL and Unsloth write it."""
    asked, said = question(number), f"程{number}"
    return {
        "messages": messages(number),
        "sharegpt": {"conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": said}]},
        "prompt_completion": {"prompt": asked, "completion": said},
        "text of ChatML": {"text": f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n{said}<|im_end|>\n"},
        "text of Alpaca": {"text": f"Below is an instruction.\n\n### Instruction:\n{asked}\n\n### Response:\n{said}<|im_end|>"},
        "text of Llama 3": {"text": f"<|start_header_id|>user<|end_header_id|>\n\n{asked}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n{said}<|eot_id|>"},
        "plain text": {"text": asked + said},
    }[shape]  # fmt: skip


def data(folder: Path, shape: str = "messages", count: int = 30) -> Path:
    folder.mkdir()
    rows = [shaped(shape, number) for number in range(count)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return folder


def trl_settings(path: Path, **given: Any) -> Path:
    """The YAML of `trl sft --config`."""
    said = {"model_name_or_path": "base", "dataset_name": "data", "max_length": 512, "learning_rate": 2e-5, "use_peft": True}
    path.write_text(yaml.safe_dump(said | given))
    return path


SCRIPT = """from unsloth import FastLanguageModel
from unsloth.chat_templates import train_on_responses_only
from trl import SFTTrainer, SFTConfig
from datasets import load_dataset
model, tokenizer = FastLanguageModel.from_pretrained("base", max_seq_length=512, load_in_4bit=True)
model = FastLanguageModel.get_peft_model(model, r=16, lora_alpha=16)
dataset = load_dataset("json", data_files="data/train.jsonl", split="train").map(format_rows, batched=True)
trainer = SFTTrainer(model=model, tokenizer=tokenizer, train_dataset=dataset,
                     args=SFTConfig(dataset_text_field="text", per_device_train_batch_size=2, max_steps=60))
{masked}trainer.train()
"""
MASKED = 'trainer = train_on_responses_only(trainer, instruction_part="<|im_start|>user\\n", response_part="<|im_start|>assistant\\n")\n'


def losses(found: Diagnosis) -> list[Finding]:
    return [finding for finding in found.findings if finding.name == "loss on the prompt" and "% of the loss" in finding.what]


LEARNT = ("messages", "sharegpt", "text of ChatML", "text of Alpaca", "text of Llama 3")


@pytest.mark.parametrize("base", ["embedded", None])
@pytest.mark.parametrize("shape", LEARNT)
def test_trl_learns_the_prompt_of_messages_and_texts(shape: str, base: str | None, tmp_path: Path) -> None:
    found = diagnose([trl_settings(tmp_path / "sft.yaml"), data(tmp_path / "data", shape)], base)
    [finding] = losses(found)
    assert finding.severity == "error"
    assert finding.place.endswith("sft.yaml")
    assert int(finding.what.partition("%")[0]) >= 75
    assert ("tokens" if base else "characters") in finding.what
    assert "assistant_only_loss" in finding.remedy


HEALTHY = {
    "rows of prompt and completion": ({}, "prompt_completion"),
    "answers only": ({"assistant_only_loss": True}, "messages"),
    "completions only": ({"completion_only_loss": True}, "prompt_completion"),
    "texts in which nobody answers": ({}, "plain text"),
}


@pytest.mark.parametrize("kind", HEALTHY)
def test_trl_that_masks_the_prompt_is_quiet(kind: str, tmp_path: Path) -> None:
    given, shape = HEALTHY[kind]
    found = diagnose([trl_settings(tmp_path / "sft.yaml", **given), data(tmp_path / "data", shape)], "embedded")
    assert not alarms(found), found.findings


def test_completions_whose_prompts_are_learnt_are_an_error(tmp_path: Path) -> None:
    settings = trl_settings(tmp_path / "sft.yaml", completion_only_loss=False)
    [finding] = losses(diagnose([settings, data(tmp_path / "data", "prompt_completion")], "embedded"))
    assert finding.severity == "error"


def test_without_data_it_is_a_note(tmp_path: Path) -> None:
    found = diagnose([trl_settings(tmp_path / "sft.yaml")])
    assert not alarms(found)
    assert any("messages, sharegpt, text" in finding.what for finding in found.findings)


def test_each_answer_of_a_conversation_is_none_of_the_prompt(tmp_path: Path) -> None:
    folder = data(tmp_path / "data", count=0)
    turns = [{"role": "user", "content": "何人？"}, {"role": "assistant", "content": "少師蹇義" * 20}] * 3
    (folder / "train.jsonl").write_text(json.dumps({"messages": turns}, ensure_ascii=False) + "\n")
    [finding] = losses(diagnose([trl_settings(tmp_path / "sft.yaml"), folder]))
    assert (finding.severity, finding.what.partition("%")[0]) == ("note", "4")  # 9 of 249 characters
    assert "(9 of 249 characters" in finding.what


@pytest.mark.parametrize("shape", ["messages", "text of ChatML"])
def test_a_script_of_unsloth_learns_all_unless_it_is_told(shape: str, tmp_path: Path) -> None:
    script, folder = tmp_path / "train.py", data(tmp_path / "data", shape)
    script.write_text(SCRIPT.format(masked=""))
    [finding] = losses(diagnose([script, folder], "embedded"))
    assert finding.severity == "error"
    assert "train_on_responses_only" in finding.remedy
    script.write_text(SCRIPT.format(masked=MASKED))
    assert not alarms(diagnose([script, folder], "embedded"))


def test_a_text_that_begins_twice_is_named(tmp_path: Path) -> None:
    """Unsloth's formatted texts hold the beginning, and the tokenizer adds it again."""
    import shutil

    from whet.models.base_model import EMBEDDED_PATH

    base = tmp_path / "base"
    shutil.copytree(EMBEDDED_PATH, base)
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    begin = next(token for token in tokenizer["added_tokens"] if token["content"] == "<|endoftext|>")
    (base / "tokenizer_config.json").write_text(
        json.dumps(json.loads((base / "tokenizer_config.json").read_text()) | {"bos_token": begin["content"]})
    )
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": begin["content"], "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {begin["content"]: {"id": begin["content"], "ids": [begin["id"]], "tokens": [begin["content"]]}},
    }  # fmt: skip
    (base / "tokenizer.json").write_text(json.dumps(tokenizer))
    folder = data(tmp_path / "data", "text of ChatML", count=0)
    texts = [shaped("text of ChatML", number)["text"] for number in range(8)]
    (folder / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert not alarms(diagnose([folder], base))
    (folder / "train.jsonl").write_text("".join(json.dumps({"text": begin["content"] + text}) + "\n" for text in texts))
    [finding] = alarms(diagnose([folder], base))
    assert finding.name == "a doubled beginning"
    assert "8 of 8" in finding.what


def test_texts_that_never_end_their_answer_are_an_error(tmp_path: Path) -> None:
    """The base's tokenizer ends texts with another token than its template ends turns with."""
    import shutil

    from whet.models.base_model import EMBEDDED_PATH

    base = tmp_path / "base"
    shutil.copytree(EMBEDDED_PATH, base)
    config = json.loads((base / "tokenizer_config.json").read_text())
    folder = data(tmp_path / "data", "text of ChatML", count=0)
    closed = [shaped("text of ChatML", number)["text"] for number in range(8)]
    cut = [text.rpartition("<|im_end|>")[0] for text in closed]
    for texts, eos, names in (
        (closed, "<|endoftext|>", set()), (cut, "<|im_end|>", set()), (cut, "<|endoftext|>", {"an end that is never learnt"}),
    ):  # fmt: skip
        (base / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": eos}))
        (folder / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        assert {finding.name for finding in alarms(diagnose([folder], base))} == names


@pytest.mark.end_to_end
@pytest.mark.parametrize("shape", ["messages", "prompt_completion", "text of ChatML"])
def test_the_share_is_that_of_trl_itself(shape: str, small_base: BaseModel, tmp_path: Path) -> None:
    """Settings as SFTConfig writes them; what is learnt as SFTTrainer's own collator labels it."""
    pytest.importorskip("trl", reason="needs whet's extra bench")
    folder = data(tmp_path / "data", shape, count=16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        config = SFTConfig(output_dir=str(tmp_path / "run"), use_cpu=True, bf16=False, report_to="none", disable_tqdm=True, max_length=512)  # fmt: skip
        (tmp_path / "args.json").write_text(config.to_json_string())
        rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
        trainer = SFTTrainer(str(small_base.folder), config, train_dataset=Dataset.from_list(rows))
        batch = trainer.data_collator([trainer.train_dataset[number] for number in range(16)])
    learnt = int((batch["labels"] != -100).sum())
    found = losses(diagnose([tmp_path / "args.json", folder], small_base.folder))
    whole = int(batch["attention_mask"].sum())
    if shape == "prompt_completion":
        assert found == []
        assert learnt < whole / 3
        return
    assert learnt == whole
    numbers = re.search(r"\(([\d,]+) of ([\d,]+) tokens", found[0].what)
    assert numbers
    prompt, total = (int(number.replace(",", "")) for number in numbers.groups())
    # Behind the end of a turn the template writes a line break, which TRL learns too; to a text it adds its own end.
    assert total <= whole <= total + 2 * 16
    assert 0.7 < prompt / total < 0.95
