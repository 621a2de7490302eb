"""lm-evaluation-harness over our engine: the same answers as its own model gives, to the question; and what is refused."""

import json
from contextlib import contextmanager
from pathlib import Path

import pytest

from whet.backends.base import DeviceSettings
from whet.engines.scripted import ScriptedEngine
from whet.errors import InputError
from whet.evaluate.checks import check_overlap
from whet.evaluate.results import System, read_result
from whet.evaluate.statistics import wilson
from whet.pipeline.harness import HarnessSettings, run_harness
from whet.pipeline.systems import Candidate, Opened, of_local
from whet.records import Completion, Example, Message
from whet.tasks.choice_qa import LETTERS, ChoiceQa, ChoiceQaSettings

pytest.importorskip("lm_eval", reason="needs lm-eval: pip install 'whet[harness]'")
pytestmark = [
    pytest.mark.end_to_end,  # lm-eval, datasets and transformers take their time to open
    pytest.mark.filterwarnings("ignore"),  # of theirs, not of ours
]

TOPICS = ("tax", "grain", "horses", "rivers", "walls", "salt", "silk", "maps", "law", "bells", "roads", "ships")
PROMPT = "Answer the question with the letter of the right choice."


def rows(num=24):
    return [
        {
            "question": f"Who kept the {TOPICS[at % 12]} in year {at * 37}?",
            "choices": [f"the {word} office" for word in (TOPICS[(at + step) % 12] for step in range(4))],
            "answer": at * 7 % 4,
        }
        for at in range(num)
    ]


def write_task(folder, name="offices", kind="multiple_choice", **more):
    """A task of the harness over a local file; the prompt is that of our choice task, choices in the file's order."""
    folder.mkdir(exist_ok=True)
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    choices = "".join("\\n" + f"{LETTERS[at]}. {{{{choices[{at}]}}}}" for at in range(4))
    task = {
        "task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test",
        "output_type": kind, "doc_to_text": PROMPT + "\n\n{{question}}" + choices.replace("\\n", "\n"),
    }  # fmt: skip
    if kind == "multiple_choice":
        task |= {"doc_to_choice": ["A", "B", "C", "D"], "doc_to_target": "answer", "metric_list": [{"metric": "acc"}]}
    else:
        task |= {
            "doc_to_target": "{{['A', 'B', 'C', 'D'][answer]}}", "metric_list": [{"metric": "exact_match"}],
            "generation_kwargs": {"until": ["\n", "."], "max_gen_toks": 6, "do_sample": False},
        }  # fmt: skip
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(task | more))  # JSON is YAML
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")


@contextmanager
def _opened(engine):
    yield Opened(engine, "t", "the end of the turn")


def scripted(reply):
    engine = ScriptedEngine("scripted", reply)
    return Candidate(System("base", "scripted", {"base": "x"}), lambda: _opened(engine))


def gold_of(request):
    """The letter of the right choice, from the question's words."""
    row = next(row for row in rows() if row["question"] in request.messages[-1].content)
    return LETTERS[row["answer"]]


def test_our_engine_answers_as_the_harness_own_model_does_to_the_question(small_base, tmp_path):
    import torch
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = write_task(tmp_path / "tasks")
    own = run_harness(
        [str(path)], of_local(small_base, None, DeviceSettings(), label="small"), tmp_path / "out", HarnessSettings()
    )
    model = AutoModelForCausalLM.from_pretrained(small_base.folder, dtype=torch.float32)
    theirs = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(small_base.folder), batch_size=4)
    loaded = TaskManager(include_path=str(path.parent)).load(["offices"])
    said = evaluate(lm=theirs, task_dict=loaded, bootstrap_iters=0, apply_chat_template=True, fewshot_as_multiturn=True)
    wanted = {f"offices:{sample['doc_id']}": bool(sample["acc"]) for sample in said["samples"]["offices"]}
    part = own.parts["offices"]
    assert {score.example_id: score.right for score in own.scores("offices")} == wanted
    assert part.value == said["results"]["offices"]["acc,none"] == part.extra["lm-eval"]["offices"]["acc,none"]
    assert 0 < sum(wanted.values()) < len(wanted) == 24

    # And our own task with the same prompts ranks the same letters.
    from whet.pipeline.systems import of_local as open_again

    task = ChoiceQa(ChoiceQaSettings(shuffle_seed=None))
    with open_again(small_base, None, DeviceSettings(), label="small").open() as opened:
        for example in own.questions("offices"):
            row = next(row for row in rows() if row["question"] in example.text)
            ours = type(example)("i", row["question"], "", "", choices=tuple(row["choices"]), answer=row["answer"])
            ranks = opened.engine.rank(task.ask(ours))
            assert task.ask(ours).messages[-1].content == example.text
            best = LETTERS[max(range(4), key=ranks.__getitem__)]
            assert (best == task.reply(ours)) == wanted[example.id]


def test_a_written_reply_is_cut_and_scored_as_the_task_says(tmp_path):
    asked = []

    def reply(request):
        asked.append(request)
        return f"{gold_of(request)}\nand more" if len(asked) % 3 else "none of them."

    path = write_task(tmp_path / "tasks", "written", "generate_until")
    result = run_harness([str(path)], scripted(reply), tmp_path / "out", HarnessSettings(limit=9))
    part = result.parts["written"]
    assert (part.num_asked, part.value) == (9, pytest.approx(6 / 9))
    assert part.asked.max_tokens == asked[0].max_tokens == 6
    assert [message.role for message in asked[0].messages] == ["user"]
    assert [score.right for score in result.scores("written")] == [True, True, False] * 3
    assert read_result(tmp_path / "out") == result
    assert result.questions("written")[0].messages[-1].content == LETTERS[rows()[0]["answer"]]


def test_shots_are_turns_of_the_conversation(tmp_path):
    asked = []

    def reply(request):
        asked.append(request)
        return gold_of(request)

    path = write_task(tmp_path / "tasks", "shown", fewshot_split="test", num_fewshot=2)
    result = run_harness([str(path)], scripted(reply), tmp_path / "out", HarnessSettings(limit=4, shots=3))
    assert [message.role for message in asked[0].messages] == ["user", "assistant"] * 3 + ["user"]
    assert asked[0].messages[1].content.strip() in "ABCD"
    assert result.parts["shown"].value == 1.0


def test_an_error_is_no_answer(tmp_path):
    def rank(request):
        raise InputError("", "no room")

    candidate = scripted(gold_of)
    with candidate.open() as opened:
        engine = opened.engine
    failing = {row["question"] for row in rows()[:2]}
    plain = engine.rank
    engine.rank = lambda request: rank(request) if any(q in request.messages[-1].content for q in failing) else plain(request)
    again = Candidate(candidate.system, lambda: _opened(engine))
    path = write_task(tmp_path / "tasks")
    part = run_harness([str(path)], again, tmp_path / "out", HarnessSettings(max_error_rate=0.1)).parts["offices"]
    assert (part.num_asked, part.num_scored, part.value, part.rates["error"]) == (24, 22, 1.0, 2 / 24)
    assert part.extra["lm-eval"]["offices"]["acc,none"] < 1 or rows()[0]["answer"] == rows()[1]["answer"] == 0
    part = run_harness([str(path)], again, tmp_path / "strict", HarnessSettings()).parts["offices"]
    assert (part.value, part.interval) == (None, None)


def test_errors_of_written_replies_are_counted_too(tmp_path):
    def reply(request):
        if rows()[0]["question"] in request.messages[-1].content:
            return Completion("", "error", error="gone")
        return gold_of(request)

    path = write_task(tmp_path / "tasks", "written", "generate_until")
    part = run_harness([str(path)], scripted(reply), tmp_path / "out", HarnessSettings()).parts["written"]
    assert (part.num_scored, part.value) == (23, 1.0)


def test_questions_met_in_training_are_found_in_the_data_sets_own_rows(tmp_path):
    def taught(at, **changes):
        row = rows()[at] | changes
        return Example("", row["question"], "t.jsonl:1", "", choices=tuple(row["choices"]), answer=row["answer"])

    training = [
        taught(0),
        taught(1, choices=rows()[1]["choices"][::-1]),  # in another order
        Example("", "", "", "", messages=(Message("user", rows()[2]["question"].upper()), Message("assistant", "x"))),
        taught(3, question=rows()[3]["question"].replace("Who kept", "Who once kept")),  # nearly
        Example("", "Something else altogether, of another place and another time.", "", ""),
    ]
    path = write_task(tmp_path / "tasks")
    candidate = scripted(lambda request: gold_of(request) if rows()[0]["question"] in request.messages[-1].content else "A")
    part = run_harness([str(path)], candidate, tmp_path / "out", HarnessSettings(), training=training).parts["offices"]
    met = {int(id_.partition(":")[2]) for id_ in part.overlap.ids}
    assert part.overlap.ids[:3] == ("offices:0", "offices:1", "offices:2")  # word for word
    assert (part.overlap.num_exact, part.overlap.num_near) == (3, len(met) - 3)
    assert met <= {0, 1, 2, 3, 12, 13, 14, 15} and 3 in met  # those twelve further on differ in the year alone
    rest = [row for at, row in enumerate(rows()) if at not in met]
    right = sum(row["answer"] == 0 for row in rest)
    assert part.overlap.without == pytest.approx(right / len(rest))
    assert part.overlap.without_interval == wilson(right, len(rest))
    assert read_result(tmp_path / "out").parts["offices"] == part
    assert run_harness([str(path)], candidate, tmp_path / "none", HarnessSettings()).parts["offices"].overlap is None
    assert check_overlap("offices", part, 0.0).outcome == "fail"


def test_a_question_asked_twice_is_named_and_counts_as_one(tmp_path):
    path = write_task(tmp_path / "tasks")
    data = tmp_path / "tasks" / "offices.jsonl"
    lines = data.read_text().splitlines(keepends=True)
    data.write_text("".join([*lines[:6], *lines[:6]]))
    part = run_harness([str(path)], scripted(gold_of), tmp_path / "out", HarnessSettings()).parts["offices"]
    assert (part.num_asked, part.num_distinct, part.num_groups) == (12, 6, 6)
    assert part.duplicates[0] == ("offices:0", "offices:6")
    assert part.interval.low < wilson(12, 12).low


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"output_type": "loglikelihood", "metric_list": [{"metric": "perplexity"}]}, "is a loglikelihood task"),
        ({"gen_prefix": "The answer is"}, "begins the reply itself"),
        ({"metric_list": [{"metric": "acc_mutual_info"}]}, "acc_mutual_info"),
        ({"metric_list": [{"metric": "brier_score"}]}, "is scored by brier_score"),
    ],
)
def test_tasks_that_ask_for_more_are_refused(tmp_path, more, words):
    path = write_task(tmp_path / "tasks", **more)
    with pytest.raises(InputError, match=words):
        run_harness([str(path)], scripted(gold_of), tmp_path / "out", HarnessSettings())


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="no task is named nonesuch"):
        run_harness(["nonesuch"], scripted(gold_of), tmp_path / "out", HarnessSettings())
    with pytest.raises(InputError, match="no such file"):
        run_harness(["nowhere.yaml"], scripted(gold_of), tmp_path / "out", HarnessSettings())
    path = write_task(tmp_path / "tasks")
    Path(tmp_path / "tasks" / "offices.jsonl").unlink()
    with pytest.raises(InputError, match="can't be loaded"):
        run_harness([str(path)], scripted(gold_of), tmp_path / "out", HarnessSettings())
