"""The comparison behind a certificate: what passes, what fails, and what it says of the place."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from whet.errors import InputError, MissingExtraError, ProofError
from whet.export.certificate import certificate_paths
from whet.export.judging import Form
from whet.export.parity import GREEDY, LIMITS, Prompt, ask_trained, compare, limits_of, metric_row
from whet.pipeline.certify import Certifier, Questions, held_out_questions
from whet.records import Example, Message, example_to_json
from whet.storage import write_jsonl
from whet.tasks.choice_qa import ChoiceQaSettings
from whet.tasks.free_qa import FreeQaSettings
from whet.text.chat import Chat

VOCABULARY = 50
PROMPTS = tuple(Prompt(f"text {at}", (3, 4, 5 + at), f"example {at}") for at in range(4))


class Table:
    """A model whose logits depend on the last token alone; what is planted in it is what a broken export does."""

    def __init__(self, noise: float = 0.0, shift: Any = None, other_ids: bool = False, vocabulary: int = VOCABULARY) -> None:
        # Likeliest tokens go round in a circle that never meets the end id, 0; the second likeliest is 1 behind by 1.
        self.rows = np.full((VOCABULARY, vocabulary), -5.0, np.float32)
        for token in range(VOCABULARY):
            self.rows[token, 1 + token % (VOCABULARY - 1)] = 8.0
            self.rows[token, 1 + (token + 1) % (VOCABULARY - 1)] = 7.0
        self.rows += noise * np.random.default_rng(0).standard_normal(self.rows.shape).astype(np.float32)
        if shift is not None:
            self.rows[shift[0], shift[1]] += shift[2]
        self.other_ids = other_ids

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return [[3, 4, 5 + int(text.split()[1]) + self.other_ids] for text in texts]

    def logits(self, ids: Sequence[int], start: int) -> Any:
        return self.rows[list(ids[start:])]

    def continue_ids(self, ids: Sequence[int], max_tokens: int, end_ids: Sequence[int]) -> list[int]:
        made: list[int] = []
        last = ids[-1]
        while len(made) < max_tokens:
            last = int(self.rows[last].argmax())
            made.append(last)
            if last in end_ids:
                break
        return made


def found_by(judge: Table, kind: str, tmp_path: Path) -> Any:
    trained = ask_trained(Table(), PROMPTS, GREEDY, [0], tmp_path)
    assert all(len(one.reply) == GREEDY for one in trained)
    return compare(judge, trained, kind, GREEDY, [0])[0]


def test_the_same_model_passes(tmp_path: Path) -> None:
    found = found_by(Table(), "f32", tmp_path)
    assert (found.num_same_ids, found.num_greedy, found.num_ties, found.largest, found.faults) == (4, 4, 0, 0.0, [])
    assert found.num_top1 == found.num_tokens == 4 * GREEDY


def test_noise_passes_where_the_type_allows_it(tmp_path: Path) -> None:
    assert "logits: they differ by up to" in found_by(Table(noise=0.05), "f32", tmp_path).faults[0]
    assert found_by(Table(noise=0.02), "f16", tmp_path).faults == []
    assert found_by(Table(noise=0.1), "q8_0", tmp_path).faults == []
    assert any("same in" in fault for fault in found_by(Table(noise=8.0), "q8_0", tmp_path).faults)


def test_a_tie_is_told_from_another_reply(tmp_path: Path) -> None:
    """bf16 allows 0.5, so two tokens 1.0 apart may change places; 1.0 apart in f16 they may not."""
    second = 1 + 21 % (VOCABULARY - 1)
    tie = found_by(Table(shift=(20, second, 1.2)), "bf16", tmp_path)
    assert (tie.num_ties, tie.num_greedy) == (4, 0)
    other = found_by(Table(shift=(20, second, 1.2)), "f16", tmp_path)
    assert other.num_ties == 0
    assert any("the greedy reply to example 0 parts at token 15" in fault and "1 apart" in fault for fault in other.faults)


def test_other_ids_and_another_vocabulary_are_named(tmp_path: Path) -> None:
    faults = found_by(Table(other_ids=True), "q4_k_m", tmp_path).faults
    assert faults[0] == "tokenizer: example 0 has other ids from token 2 on ([5] became [6])"
    assert "vocabulary has 60 tokens" in found_by(Table(vocabulary=60), "f32", tmp_path).faults[0]


def test_what_is_no_number_fails(tmp_path: Path) -> None:
    for kind in ("f32", "q8_0"):
        assert found_by(Table(shift=(slice(None), slice(None), np.nan)), kind, tmp_path).faults


def test_a_lost_score_fails() -> None:
    trained = {"name": "record f1", "value": 0.8, "low": 0.7, "high": 0.9, "num": 16}
    assert metric_row(trained | {"value": 0.79}, trained, limits_of("q8_0"))[1] == ""
    assert "fell from 0.800 to 0.700" in metric_row(trained | {"value": 0.7}, trained, limits_of("q8_0"))[1]
    assert metric_row(trained | {"value": 0.9}, trained, limits_of("f32"))[1] == ""


def test_smaller_types_are_allowed_more() -> None:
    losses = [limits_of(kind).metric_loss for kind in ("f32", "q8_0", "q6_k", "q4_k_m", "q2_k")]
    assert losses == sorted(losses)
    assert all(limits.is_greedy == (limits.logits is not None) for limits in LIMITS.values())


def certified(judge: Any, chat: Chat, out: Path, **more: Any) -> Any:
    """A certificate of one form by a judge, as exports make it."""

    @contextlib.contextmanager
    def opened() -> Iterator[Any]:
        if isinstance(judge, Exception):
            raise judge
        yield judge

    certifier = Certifier("small <b>", chat, Questions(PROMPTS, "four texts"), {"model": "abc"}, lambda words: None)
    certifier.chat = type("C", (), {"end_id": 0})()  # type: ignore[assignment]
    certifier.ask(Table())
    certifier.compare(Form("gguf", "f32", "a table", opened, **more))
    return certifier.finish(out)


@pytest.mark.parametrize("has_choices", [True, False])
def test_held_out_examples_are_asked_and_choices_are_not_scored(chat: Chat, tmp_path: Path, has_choices: bool) -> None:
    talk = (Message("user", "Which?"), Message("assistant", "This one."))
    more: dict[str, Any] = {"choices": ("mitosis", "meiosis"), "answer": 1} if has_choices else {"messages": talk}
    rows = [Example(f"q{n}", f"Which of them halves {n}?", "here", f"q{n}", **more) for n in range(3)]
    write_jsonl(tmp_path / "data" / "test.jsonl", map(example_to_json, rows))
    task = ChoiceQaSettings(kind="choice_qa") if has_choices else FreeQaSettings(kind="free_qa")
    recipe = SimpleNamespace(evaluate=SimpleNamespace(split="test"), task=task)
    found: Any = SimpleNamespace(recipe=recipe, base=SimpleNamespace(max_length=2048))
    questions = held_out_questions(chat, found, tmp_path)
    assert len(questions.prompts) == 3
    assert all(prompt.ids == tuple(chat.tokenizer.encode(prompt.text)) for prompt in questions.prompts)
    assert (questions.task is None, "ranked" in questions.note) == (has_choices, has_choices)


def test_a_certificate_is_written_with_its_page(chat: Chat, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    certified(Table(), chat, out)
    plain, page = json.loads((tmp_path / "m.certificate.json").read_text()), (tmp_path / "m.certificate.html").read_text()
    assert plain["status"] == "passed"
    assert plain["forms"][0]["found"]["num_greedy"] == 4
    assert "small &lt;b&gt;" in page
    assert "4 of 4" in page
    assert "src=" not in page
    assert "http" not in page.replace("http-equiv", "")


def test_a_failed_one_says_where_and_raises(chat: Chat, tmp_path: Path) -> None:
    with pytest.raises(ProofError, match="is not the trained model: gguf: tokenizer: example 0"):
        certified(Table(other_ids=True), chat, tmp_path, explain=lambda: ["blk.0 is off by 9 %"])
    plain = json.loads((tmp_path / "certificate.json").read_text())
    assert plain["status"] == "failed"
    assert "tensors: blk.0 is off by 9 %" in plain["forms"][0]["faults"]
    assert "blk.0 is off" in (tmp_path / "certificate.html").read_text()


def test_a_missing_judge_is_said_and_proves_nothing(chat: Chat, tmp_path: Path) -> None:
    made = certified(MissingExtraError("llama-cpp-python", "llamacpp", "this"), chat, tmp_path)
    assert made.to_json()["status"] == "not judged"
    assert "llama-cpp-python" in (tmp_path / "certificate.html").read_text()


def test_a_file_that_its_judge_refuses_fails(chat: Chat, tmp_path: Path) -> None:
    with pytest.raises(ProofError, match="can't be read"):
        certified(InputError("m.gguf", "llama.cpp does not load it"), chat, tmp_path)


def test_certificates_stand_beside_files_and_in_folders() -> None:
    assert [path.as_posix() for path in certificate_paths(Path("a/m.gguf"))] == ["a/m.certificate.json", "a/m.certificate.html"]
    assert [path.as_posix() for path in certificate_paths(Path("a"))] == ["a/certificate.json", "a/certificate.html"]
