"""Looks at a settings file of a trainer: what is learnt, which keys do nothing, what is kept."""

from whet.doctor.finding import Context, Findings, error, note, warning
from whet.doctor.tokens import REMEDY
from whet.exchange import table
from whet.exchange.draft import Draft, shown
from whet.exchange.reading import Settings
from whet.exchange.sources import NO_DATA

_PROMPT = "learns the prompt too"
# Words of a remark that leaves it to the rows what is learnt, and the shapes whose prompt is then learnt.
_BY_SHAPE = {
    "where rows are messages or text": ("messages", "sharegpt", "text"),
    "Without train_on_responses_only": ("messages", "sharegpt", "text", "alpaca", "question_answer"),
}


def look(settings: Settings, context: Context) -> Findings:
    """All findings about a settings file. The context is told the length limit and whether the prompt is learnt."""
    name, draft = table.draft(settings)
    line = draft.lines.get("train.max_length")
    if line is not None and context.max_length is None:
        context.max_length = line.value
    yield from _ignored(draft)
    yield from _learnt(name, draft, context)
    yield from _kept(draft)
    yield from _dropped(draft)
    yield from _packing(name, draft)


def _ignored(draft: Draft) -> Findings:
    for lost in draft.lost:
        if lost.weight == "unread":
            yield error(
                "a setting that does nothing",
                draft.settings.place(lost.key),
                f"{lost.key}: {shown(lost.value)} is not used",
                f"{lost.why}.",
                "Write what is meant, or take it out",
            )
    accumulated = draft.lines.get("train.examples_per_step")
    if accumulated is not None and "count alike" in accumulated.differs:
        yield note(
            "averages of averages",
            draft.settings.path,
            f"{draft.tool.name} averages its micro-batches, whatever number of tokens each learns ({accumulated.said})",
            "Tokens of short answers weigh more than those of long ones; the loss is not that of one large batch.",
            "Take a larger batch and no accumulation where memory allows it",
        )
    for line in draft.lines.values():
        if "does nothing beside" in line.differs:
            yield error(
                "a setting that does nothing",
                draft.settings.path,
                line.differs,
                "Another setting takes its place.",
                "Take it out, or write it where it is read",
            )
        if "never reach the weights" in line.differs:
            yield warning(
                "steps that are never taken",
                draft.settings.path,
                line.differs,
                "Their gradients are thrown away.",
                "Make iters a multiple of grad_accumulation_steps",
            )


def _learnt(name: str, draft: Draft, context: Context) -> Findings:
    remark = next((words for words in draft.remarks if _PROMPT in words), "")
    certain = name == "mlx-lm" or "completion_only_loss: false" in remark or "train_on_inputs: true" in remark
    certain = certain or "train_on_prompt: true" in remark
    if remark and certain:
        context.learns_prompt = str(draft.settings.path)
        yield warning(
            "loss on the prompt",
            draft.settings.path,
            remark.partition(" whet ")[0],
            "With long instructions most of the loss is theirs, and little of the answer's. Give the data too for the share.",
            REMEDY,
        )
    shapes = next((shapes for words, shapes in _BY_SHAPE.items() for said in draft.remarks if words in said), ())
    if shapes and not (remark and certain):
        context.learns_prompt, context.learns_prompt_of = str(draft.settings.path), shapes
        yield note(
            "loss on the prompt",
            draft.settings.path,
            f"{draft.tool.name} learns the prompt too in rows of the shapes {', '.join(shapes)}",
            "With long instructions most of the loss is theirs, and little of the answer's. Give the data too for the share.",
            REMEDY,
        )
    alpha, rank = draft.lines.get("train.lora.alpha"), draft.lines.get("train.lora.rank")
    if name == "mlx-lm" and alpha is not None and rank is not None and alpha.value / rank.value >= 10:
        yield note(
            "strength",
            draft.settings.path,
            f"the adapter acts at strength {alpha.value / rank.value:g} (scale)",
            "A tool that reads alpha alone, or takes 1.0, serves a small part of it.",
            "Keep the scale when it is converted: whet adapter convert",
        )


def _kept(draft: Draft) -> Findings:
    if "data.split.valid" in draft.lines and draft.lines["data.split.valid"].differs and "data.sources" in draft.lines:
        sources = draft.lines["data.sources"].value
        if sources and sources[0]["path"] != NO_DATA:
            yield note(
                "no validation data",
                draft.settings.path,
                f"{draft.tool.name} holds nothing out and keeps the last weights",
                "Nothing tells when it begins to learn by heart.",
                "Give it a validation file",
            )


def _dropped(draft: Draft) -> Findings:
    if draft.settings.values.get("dataloader_drop_last") is True:
        yield warning(
            "rows that are never trained",
            draft.settings.place("dataloader_drop_last"),
            "dataloader_drop_last: true leaves out the last, smaller batch of each epoch",
            "With few rows and large batches that is a good part of them.",
            "Take it out",
        )


def _packing(name: str, draft: Draft) -> Findings:
    for words in draft.remarks:
        if "see each other" in words and name == "llama-factory":
            yield warning(
                "rows that see each other",
                draft.settings.path,
                words.partition(";")[0],
                "An answer is learnt with a stranger's text before it.",
                "Set neat_packing: true",
            )
