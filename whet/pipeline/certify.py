"""Proves exports: the trained model and each form of it answer the same held-out prompts."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.errors import InputError, MissingExtraError, ProofError, counted
from whet.evaluate.run import pick
from whet.evaluate.shares import share_interval
from whet.evaluate.statistics import score_intervals
from whet.export.certificate import Certificate, Judged, certificate_paths, say_certificate, write_certificate
from whet.export.convert import convert_adapter
from whet.export.judging import Form, Judge
from whet.export.parity import GREEDY, Prompt, Trained, ask_trained, compare, limits_of, metric_row
from whet.models.adapter import open_adapter
from whet.models.base_model import BaseModel
from whet.models.mlx_adapter import is_mlx
from whet.pipeline.bench import Folder
from whet.pipeline.specialist import Specialist
from whet.records import Completion, Example, Message
from whet.storage import hash_file, hash_folder
from whet.tasks.base import Task
from whet.tasks.table import open_task
from whet.text.chat import Chat

NUM_PROMPTS = 16
MAX_REPLY = 512  # tokens of a reply that is scored
PLAIN_PROMPTS = (
    "Once upon a time there was a little girl named Lily.",
    "What is the capital of France? Answer in one word.",
    "宣德九年，少師蹇義卒。請列出其中的人名。",
    "def add(a, b):\n    return a + b\n\n# Explain this function.",
    '{"name": "程富", "rank": null, "n": [1, 2.5]}',
    "It's 12:30, isn't it?  I've paid €1,234.50 -- don't wait!",
    "Größe, naïve, Ελληνικά, русский, العربية, 日本語、한국어",
    "Write three numbers, one a line.",
)
"""What is asked where no run says what its specialist is for."""


@dataclass(frozen=True, slots=True)
class Questions:
    """The prompts of a certificate, and the examples behind them where they are scored."""

    prompts: tuple[Prompt, ...]
    told: str
    """Where they come from, in words."""
    max_tokens: int = GREEDY
    task: Task | None = None
    examples: tuple[Example, ...] = ()
    note: str = ""


def held_out_questions(chat: Chat, found: Specialist | None, run: Path | None, num: int = NUM_PROMPTS) -> Questions:
    """Held-out examples of a run, spread over its split; some plain texts where there is no run."""
    if found is None or found.recipe is None or run is None:
        texts = [chat.render([Message("user", text)], is_prompt=True) for text in PLAIN_PROMPTS]
        prompts = tuple(Prompt(text, tuple(chat.tokenizer.encode(text)), f"text {at}") for at, text in enumerate(texts, 1))
        return Questions(prompts, f"{len(prompts)} plain texts of whet's; give a run folder to ask what its specialist is for")
    split = found.recipe.evaluate.split
    examples = pick(list(Folder(run).examples(split)), num)
    task = open_task(found.recipe.task)
    asked = [task.ask(example) for example in examples]
    if not examples:
        raise InputError(str(Folder(run).data / f"{split}.jsonl"), "holds no examples", "Build the data again: whet run RECIPE")
    fitting: list[Prompt] = []
    kept: list[Example] = []
    for example, request in zip(examples, asked, strict=True):
        text = chat.render(request.messages, is_prompt=True)
        ids = tuple(chat.tokenizer.encode(text))
        if len(ids) + min(request.max_tokens, MAX_REPLY) <= found.base.max_length:
            fitting.append(Prompt(text, ids, f"{split} example {example.id}"))
            kept.append(example)
    if not fitting:
        raise InputError(str(run), f"no example of {split} leaves room for its reply", "Give --no-certificate, or a shorter task")
    longest = max(request.max_tokens for request in asked)
    told = f"{counted(len(fitting), 'example')} of the {split} split"
    if any(request.choices for request in asked):
        return Questions(
            tuple(fitting), told, GREEDY, note="choices are ranked, not written: the task's score is not measured here"
        )
    limit = max(GREEDY, min(longest, MAX_REPLY))
    note = "" if longest <= MAX_REPLY else f"replies are scored up to {MAX_REPLY} tokens"
    return Questions(tuple(fitting), told, limit, task, tuple(kept), note)


class Certifier:
    """Holds the trained model's answers, so that one form after the other can be compared with them."""

    def __init__(
        self, model: str, chat: Chat, questions: Questions, identity: dict[str, Any], say: Callable[[str], None]
    ) -> None:
        self.chat, self.questions, self.say = chat, questions, say
        self.certificate = Certificate(model, identity, questions.told, "transformers and PEFT in fp32")
        if questions.note:
            self.certificate.notes.append(questions.note)
        self.trained: list[Trained] = []
        self.headline: dict[str, Any] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="whet-certificate-")

    def ask(self, judge: Judge) -> None:
        """Ask the trained model."""
        questions = self.questions
        self.say(f"asking the trained model {counted(len(questions.prompts), 'prompt')}")
        self.trained = ask_trained(judge, questions.prompts, questions.max_tokens, [self.chat.end_id], Path(self._folder.name))
        self.headline = self._score([list(one.reply) for one in self.trained])

    def compare(self, form: Form) -> Judged:
        """Compare a form; its faults stand in what comes back, where the judge refuses the file too."""
        judged = Judged(form.name, form.kind, form.judge)
        self.certificate.forms.append(judged)
        self.say(f"asking {form.name} ({form.kind}) by {form.judge}")
        try:
            with form.open() as judge:
                found, replies = compare(judge, self.trained, form.kind, self.questions.max_tokens, [self.chat.end_id])
        except MissingExtraError as error:
            judged.missing = str(error)
            return judged
        except InputError as error:
            judged.faults.append(f"it can't be read: {error}")
            return judged
        if self.headline is not None and len(replies) == len(self.trained):
            headline = self._score(replies)
            assert headline is not None
            found.metric, fault = metric_row(headline, self.headline, limits_of(form.kind))
            found.faults += [fault] if fault else []
        judged.found, judged.faults = found, list(found.faults)
        if judged.faults:
            judged.faults += [f"tensors: {words}" for words in form.explain()]
        return judged

    def finish(self, out: Path) -> Certificate:
        """Write certificate.json and its page; ProofError where a form is beyond its limits."""
        self._folder.cleanup()
        paths = certificate_paths(out)
        write_certificate(self.certificate, paths)
        for words in say_certificate(self.certificate):
            self.say(words)
        self.say(f"certificate: {paths[0]}")
        if faults := self.certificate.faults:
            shown = "; ".join(faults[:4]) + (f"; and {len(faults) - 4} more" if len(faults) > 4 else "")
            raise ProofError(str(out), f"is not the trained model: {shown}", f"The whole comparison is in {paths[1]}")
        return self.certificate

    def _score(self, replies: Sequence[Sequence[int]]) -> dict[str, Any] | None:
        """The task's headline on these replies, with its interval."""
        task, examples = self.questions.task, self.questions.examples
        if task is None:
            return None
        scores = []
        for example, reply in zip(examples, replies, strict=True):
            is_ended = bool(reply) and reply[-1] == self.chat.end_id
            text = self.chat.tokenizer.decode(reply[:-1] if is_ended else reply)
            scores.append(task.score(example, Completion(text.removeprefix(self.chat.lead), "stop" if is_ended else "length")))
        measure, figure = task.total(scores).headline
        value = task.total(scores).measures[measure][figure]
        pairs = list(zip(scores, examples, strict=True))
        counted = [(score.counts[measure], example.group) for score, example in pairs if measure in score.counts]
        if counted and figure in ("precision", "recall", "f1"):
            counts, groups = zip(*counted, strict=True)
            interval = getattr(score_intervals(counts, groups=groups), figure)
        else:
            judged = [(bool(score.right), example.group) for score, example in pairs if score.right is not None]
            interval = share_interval([right for right, _ in judged], groups=[group for _, group in judged])
        return {"name": f"{measure} {figure}", "value": value, "low": interval.low, "high": interval.high, "num": len(scores)}


def identity_of(model: BaseModel, found: Specialist | None) -> dict[str, Any]:
    """What the certificate speaks of, by hashes."""
    if found is None:
        return {"model": model.fingerprint}
    return {"base": found.base.fingerprint, "adapter": found.adapter.fingerprint, "model": model.fingerprint}


def file_hash(path: Path) -> str:
    """Hash of an exported file, or of a folder without its certificate."""
    return hash_file(path) if path.is_file() else hash_folder(path)


@contextmanager
def trained_judge(model: BaseModel, found: Specialist | None) -> Iterator[Judge]:
    """The trained model in plain transformers: base and adapter, or a whole model where there is no adapter.

    PEFT does not read mlx-lm's layout: such an adapter is turned into PEFT's first, bit by bit.
    """
    from whet.backends.on_torch.judge import TransformersJudge

    if found is None:
        yield TransformersJudge(model)
    elif not is_mlx(found.adapter.folder):
        yield TransformersJudge(found.base, found.adapter)
    else:
        with tempfile.TemporaryDirectory(prefix="whet-peft-") as place:
            folder = Path(place) / "adapter"
            convert_adapter(found.adapter.folder, "peft", folder, found.base)
            yield TransformersJudge(found.base, open_adapter(folder, found.base))


def folder_form(name: str, kind: str, model: BaseModel) -> Form:
    """A model folder, read by transformers."""

    @contextmanager
    def opened() -> Iterator[Judge]:
        from whet.backends.on_torch.judge import TransformersJudge

        yield TransformersJudge(model)

    return Form(name, kind, "transformers in fp32", opened)


def mlx_form(model: BaseModel, kind: str) -> Form:
    """A folder for MLX, read by mlx-lm."""

    @contextmanager
    def opened() -> Iterator[Judge]:
        try:
            from whet.backends.on_mlx.judge import MlxJudge
        except ImportError:
            raise MissingExtraError("mlx-lm", "mlx", "judging an export for MLX") from None
        yield MlxJudge(model)

    return Form("mlx", kind, "mlx-lm", opened)


def gguf_form(model: BaseModel, path: Path, kind: str, num_context: int, adapter: Path | None = None) -> Form:
    """A GGUF file, read by llama.cpp."""

    @contextmanager
    def opened() -> Iterator[Judge]:
        from whet.export.llama_cpp import LlamaCpp

        with LlamaCpp() as llama:
            llama.open(path, adapter, num_context)
            yield llama

    def explain() -> list[str]:
        from whet.export.tensor_check import worst_tensors

        return worst_tensors(model, path)

    return Form("gguf with adapter" if adapter else "gguf", kind, "llama.cpp", opened, list if adapter else explain)


def specialist_form(name: str, found: Specialist) -> Form:
    """A base and an adapter folder, read by transformers and PEFT."""
    return Form(name, "fp32", "transformers and PEFT in fp32", lambda: trained_judge(found.base, found))


def adapter_form(base: BaseModel, path: Path, num_context: int) -> Form:
    """An adapter's GGUF file on its base, which is written in f32 for as long as llama.cpp reads it."""

    @contextmanager
    def opened() -> Iterator[Judge]:
        from whet.export.gguf_write import plain_beside
        from whet.export.llama_cpp import LlamaCpp

        with LlamaCpp() as llama, plain_beside(base, path, "f32", base.folder.name) as (source, _):
            llama.open(source, path, num_context)
            yield llama

    return Form("adapter on its base", "f32", "llama.cpp", opened)


@dataclass(frozen=True, slots=True)
class Exported:
    """What a certificate is about."""

    model: BaseModel
    """The whole model's folder; with an adapter that is kept apart, the base's."""
    specialist: Specialist | None
    run: Path | None
    """The run folder whose held-out examples are asked."""
    out: Path
    """The exported file or folder."""
    name: str
    is_fused: bool = True
    """Whether `model` holds the specialist's adapter."""


def certify(
    exported: Exported,
    forms: Callable[[int], Sequence[Form]],
    say: Callable[[str], None],
    template: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Certificate:
    """Prove an export: the trained model against the fused folder, where there is an adapter, and each form.

    forms: given the tokens that a context must hold. template, notes: what else the certificate says. It is written beside or
    into the export; ProofError where a form is beyond its limits. The trained model is closed before the first form is opened.
    """
    model, found = exported.model, exported.specialist
    chat = Chat(model.folder)
    questions = held_out_questions(chat, found, exported.run)
    identity = {**identity_of(model, found), exported.out.name if exported.out.is_file() else "files": file_hash(exported.out)}
    certifier = Certifier(exported.name, chat, questions, identity, say)
    certifier.certificate.template += template
    certifier.certificate.notes += notes
    with trained_judge(model, found) as judge:
        certifier.ask(judge)
    del judge
    longest = max(len(one.prompt.ids) + len(one.reply) for one in certifier.trained) + questions.max_tokens
    fused = [folder_form("fused", "fp32", model)] if found and exported.is_fused else []
    for form in (*fused, *forms(longest)):
        certifier.compare(form)
    return certifier.finish(exported.out)
