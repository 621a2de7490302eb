"""Standard tasks of lm-evaluation-harness, answered by one of our engines, and taken in as the result of a suite."""

import json
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from pydantic import Field

from whet.config import Settings
from whet.engines.base import Engine
from whet.errors import InputError, MissingExtraError, counted
from whet.evaluate.results import SuiteResult, write_result
from whet.pipeline.harness_part import METRICS, NAME, HarnessPart, Kept, read_messages
from whet.pipeline.systems import Candidate
from whet.records import Example, Request, example_to_json
from whet.storage import canonical, hash_text, locked, write_jsonl

KINDS = ("multiple_choice", "generate_until")
SHOTS_SEED = 1234  # lm-eval's own default
DEFAULT_TOKENS = 256  # lm-eval's own budget where a task sets none


class HarnessSettings(Settings):
    """How standard tasks are asked."""

    shots: int | None = Field(default=None, ge=0)
    """Examples before each question; null takes what each task says."""
    limit: int | None = Field(default=None, ge=1)
    """Most questions of each task, the first ones; null asks all."""
    max_error_rate: float = Field(default=0.05, ge=0, lt=1)
    """Largest share of questions that may fail; above it a task has no score."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Confidence of the intervals."""


def run_harness(
    tasks: Sequence[str],
    candidate: Candidate,
    out: Path,
    settings: HarnessSettings,
    say: Callable[[str], None] = lambda words: None,
    training: Sequence[Example] | None = None,
) -> SuiteResult:
    """Ask a system the tasks and write its result folder, one part a name.

    tasks: names of the harness (tasks or groups, whose tasks become categories), or YAML files of tasks, whose code is run as
    the harness runs it. Prompts go through the system's chat template. training: what the system was trained on, to be
    compared with the questions; None leaves it out. InputError for unknown tasks and for those that ask for
    more than a choice or a written reply; MissingExtraError without lm-eval.
    """
    loaded = _load(tasks, settings)
    with locked(out), candidate.open() as opened:
        parts = {}
        for name, one in loaded.items():
            kept = Kept()
            said = _evaluate(_wrap(opened.engine, kept, partial(_say_of, say, name)), one, settings.limit)
            asked = HarnessPart(name, said, one["tasks"], kept)
            write_jsonl(out / name / "questions.jsonl", map(example_to_json, asked.examples))
            write_jsonl(out / name / "answers.jsonl", asked.rows())
            overlap = asked.overlap(training, settings.confidence) if training is not None else None
            parts[name] = asked.result(settings.max_error_rate, settings.confidence, opened.template, opened.stop, overlap)
        result = SuiteResult(
            out, NAME, hash_text(canonical([sorted(loaded), settings.model_dump(mode="json")])), candidate.system, parts,
            opened.peak_memory(), opened.cost() if candidate.is_paid else None, {"lm-eval": _version()},
        )  # fmt: skip
        write_result(result)
    return result


def _say_of(say: Callable[[str], None], name: str, words: str) -> None:
    say(f"{name}: {words}")


def _version() -> str:
    import importlib.metadata

    return importlib.metadata.version("lm-eval")


def _load(tasks: Sequence[str], settings: HarnessSettings) -> dict[str, dict[str, Any]]:
    """What the harness loads for each name."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise MissingExtraError("lm-eval", "harness", "asking standard tasks") from None
    files = [Path(task) for task in tasks if task.endswith((".yaml", ".yml"))]
    for file in files:
        if not file.is_file():
            raise InputError(str(file), "no such file", "Name a task of lm-evaluation-harness, or the YAML file of one")
    with _quiet():
        # Indexing the harness's own tasks takes seconds: not where files alone are asked.
        folders = sorted({str(file.parent) for file in files})
        manager = TaskManager(include_path=folders or None, include_defaults=len(files) < len(tasks))
        wanted = [_name_in(Path(task)) if Path(task) in files else task for task in tasks]
        known = set(manager.all_tasks)
        for name in wanted:
            if name not in known:
                raise InputError("--harness", f"no task is named {name}", "List them with: lm-eval ls tasks")
        loaded = {name: _load_one(manager, name) for name in wanted}
    for one in loaded.values():
        for leaf, task in one["tasks"].items():
            _refuse_others(leaf, task)
            shots = task.get_config("num_fewshot")
            if settings.shots is not None and shots != 0:  # a task that says 0 itself means it
                task.set_config(key="num_fewshot", value=settings.shots)
            elif shots is None:
                task.set_config(key="num_fewshot", value=0)
            task.set_fewshot_seed(seed=SHOTS_SEED)
    return loaded


def _load_one(manager: Any, name: str) -> dict[str, Any]:
    try:
        return dict(manager.load([name]))
    except Exception as error:  # a task's own code, a data set that is not there: anything can happen
        said = " ".join(str(error).split())[:200]
        raise InputError(name, f"can't be loaded ({type(error).__name__}: {said})", "It may need a network or its data") from None


def _name_in(file: Path) -> str:
    """The task that a YAML file describes, read without running anything."""
    import yaml

    try:
        node = yaml.compose(file.read_text("utf-8"), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(str(file), f"not YAML: {error}") from None
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if key.value in ("task", "group") and isinstance(value, yaml.ScalarNode):
            return str(value.value)
    raise InputError(str(file), "names no task (task: NAME)", "Give the YAML file of one task")


def _refuse_others(leaf: str, task: Any) -> None:
    """InputError for a task whose answers an engine of messages can't give, or that has no figure of right and wrong."""
    kind = task.OUTPUT_TYPE
    config = task.config
    if kind not in KINDS:
        raise InputError(leaf, f"is a {kind} task", f"Only {' and '.join(KINDS)} tasks can be put to a chat")
    if config.gen_prefix is not None:
        raise InputError(leaf, "begins the reply itself (gen_prefix)", "Take a task that leaves the whole reply to the model")
    metrics = list(task._metric_fn_list)
    if "acc_mutual_info" in metrics:
        raise InputError(leaf, "asks for likelihoods without a prompt (acc_mutual_info)", "Take a task by plain accuracy")
    if not set(METRICS) & set(metrics):
        raise InputError(leaf, f"is scored by {', '.join(metrics)}", f"Only {' and '.join(METRICS)} are right or wrong")


@contextmanager
def _quiet() -> Iterator[None]:
    """The harness says much while it works; faults are told by us."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _evaluate(model: Any, loaded: dict[str, Any], limit: int | None) -> Any:
    from lm_eval.evaluator import evaluate

    with _quiet():
        return evaluate(
            lm=model, task_dict=loaded, limit=limit, bootstrap_iters=0, log_samples=True, apply_chat_template=True,
            fewshot_as_multiturn=True,
        )  # fmt: skip


def _wrap(engine: Engine, kept: Kept, say: Callable[[str], None]) -> Any:
    """The engine as a language model of the harness.

    The harness joins messages to one string by the model's own template; here that string is their JSON, so that the
    engine gets the messages, and renders them as it always does.
    """
    from lm_eval.api.model import LM

    class EngineModel(LM):  # type: ignore[misc]
        tokenizer_name = "whet"

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            return json.dumps([[turn["role"], turn["content"]] for turn in chat_history], ensure_ascii=False)

        def chat_template(self, chat_template: bool | str = False) -> str:
            return ""

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            return _rank(engine, [request.args for request in requests], kept, say)

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            raise AssertionError("refused when the task was loaded")

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            return _write(engine, [request.args for request in requests], kept, say)

    return EngineModel()


def _rank(engine: Engine, asked: Sequence[tuple[str, str]], kept: Kept, say: Callable[[str], None]) -> list[tuple[float, bool]]:
    """The log-likelihood of each continuation; those of one prompt are ranked together. The second value is never looked at."""
    choices: dict[str, list[str]] = defaultdict(list)
    for context, continuation in asked:
        if continuation not in choices[context]:
            choices[context].append(continuation)
    say(f"{counted(len(choices), 'prompt')} to rank")
    began = monotonic()
    found: dict[tuple[str, str], float] = {}
    for context, continuations in choices.items():
        try:
            ranks = engine.rank(Request(read_messages(context), 1, choices=tuple(continuations)))
            if any(map(math.isnan, ranks)):
                raise InputError("", "a log-likelihood is no number")
        except InputError as error:
            # The harness would take the first choice: such questions are counted apart when its results are taken in.
            kept.errors[context] = str(error)
            ranks = [0.0] * len(continuations)
        found |= {(context, continuation): rank for continuation, rank in zip(continuations, ranks, strict=True)}
    kept.seconds += monotonic() - began
    return [(found[pair], False) for pair in asked]


def _write(engine: Engine, asked: Sequence[tuple[str, Mapping[str, Any]]], kept: Kept, say: Callable[[str], None]) -> list[str]:
    """The reply to each prompt, cut at the first of the task's stop strings."""
    requests = []
    for number, (context, said) in enumerate(asked):
        budget = int(said.get("max_gen_toks") or said.get("max_new_tokens") or said.get("max_tokens") or DEFAULT_TOKENS)
        temperature = float(said.get("temperature") or 0.0) if said.get("do_sample") else 0.0
        requests.append(Request(read_messages(context), budget, temperature=temperature, seed=number))
        kept.max_tokens = max(kept.max_tokens, budget)
    say(f"{counted(len(requests), 'prompt')} to answer")
    began = monotonic()
    completions = engine.answer(requests)
    kept.seconds += monotonic() - began
    texts = []
    for (context, said), completion in zip(asked, completions, strict=True):
        if completion.finish == "error":
            kept.errors[context] = completion.error
        until = said.get("until") or []
        text = completion.text
        for stop in [until] if isinstance(until, str) else until:
            text = text.partition(stop)[0] if stop else text
        texts.append(text)
    return texts
