"""The plan of a recipe: its base's config, its data or a sample of them, this machine's rate, and the named cards."""

import importlib.util
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from whet.backends.base import DeviceSettings
from whet.data.mix import Quotas, quotas, sources_of
from whet.data.sources import read
from whet.errors import InputError
from whet.models.architecture import Sizes, read_sizes
from whet.models.base_model import EMBEDDED, EMBEDDED_PATH
from whet.pipeline.bench import Folder
from whet.recipe import Recipe
from whet.records import Example
from whet.storage import read_json
from whet.tasks.table import open_task
from whet.text.chat import Chat
from whet.text.piece_model import has_tokenizer
from whet.train.encode import Row, encode_example
from whet.train.plan import CARDS, Machine, Plan, Work, plan, setup_of

SAMPLE = 256  # rows whose tokens are counted
MOST_READ = 100_000  # rows of a recipe's sources that are counted before its data are built


@dataclass(frozen=True, slots=True)
class RecipePlan:
    """A plan, and in words where its numbers come from."""

    plan: Plan
    notes: tuple[str, ...]


def plan_recipe(recipe: Recipe, folder: Path, config_path: Path | None = None) -> RecipePlan:
    """Plan a recipe's training. Only config.json is read of the base; another one may be named.

    folder: the recipe's run folder, whose data are counted if they were built.
    """
    if recipe.train is None:
        raise InputError("train", "is null in this recipe", "Give it a train section; there is nothing to plan")
    base = EMBEDDED_PATH if recipe.base == EMBEDDED else Path(recipe.base).expanduser()
    path = config_path or base / "config.json"
    if not path.is_file():
        raise InputError(
            str(path), "no such file", "Name the config.json of the base with --config; its weights are not needed for a plan"
        )
    config = read_json(path)
    if not isinstance(config, dict):
        raise InputError(str(path), "is no model config")
    sizes = read_sizes(config, str(path))
    _refuse_quantized(recipe, sizes, str(path))
    notes: list[str] = []
    if sizes.is_estimate:
        notes.append(f"{sizes.family or 'The family'} is not known here and was taken to be built like Llama: an estimate")
    if (config_path is not None and config_path.parent != base) or not has_tokenizer(base):
        notes.append(
            "Tokens of the data are unknown without the base's tokenizer: packs are taken as full, and the run's time is unknown"
        )
        work = None
    else:
        work = _count(recipe, Folder(folder), Chat(base), notes)
    machine = this_machine(recipe.device, sizes, recipe.train.tokens_per_batch, notes)
    setup = setup_of(recipe.train, recipe.device, machine.kind if machine else "cpu")
    machines = [machine, *CARDS] if machine else list(CARDS)
    return RecipePlan(plan(sizes, setup, work, machines, recipe.train.max_steps), tuple(notes))


def _refuse_quantized(recipe: Recipe, sizes: Sizes, place: str) -> None:
    """InputError where a recipe asks of a base that is stored quantised what training would refuse."""
    if not sizes.stored_bytes or recipe.train is None:
        return
    if recipe.device.quantize:
        raise InputError("device.quantize", f"{place}: the base is stored quantised already", "Leave device.quantize out")
    if recipe.device.shard:
        raise InputError("device.shard", f"{place}: a quantised base can't be spread", "Leave device.shard out")
    if recipe.train.method == "full":
        raise InputError("train.method", f"{place}: a quantised base can't be trained in full", "Set train.method=lora")


def this_machine(device: DeviceSettings, sizes: Sizes, num_tokens: int, notes: list[str]) -> Machine | None:
    """The machine at hand with its measured matrix rate; None where torch is missing, which a note says."""
    if importlib.util.find_spec("torch") is None:
        notes.append("This machine was not measured: torch is not installed (pip install 'whet[torch]')")
        return None
    from whet.backends.on_torch.calibrate import calibrate

    found = calibrate(device.dtype, num_tokens, sizes.hidden, sizes.intermediate, device.kind)
    return Machine(found.name, "cuda" if found.kind == "cuda" else "cpu", found.memory, found.rate, is_measured=True)


def _count(recipe: Recipe, folder: Folder, chat: Chat, notes: list[str]) -> Work | None:
    """Rows of an epoch and tokens of the run folder's data, or of a sample of the recipe's sources."""
    task = open_task(recipe.task)

    def encoded(examples: Sequence[Example]) -> list[Row]:
        rows = []
        for example in examples:
            try:
                rows.append(encode_example(example, task, chat))
            except InputError:
                notes.append(f"{example.source} can't be rendered and was not counted; `whet data build` says why")
        return rows

    if (folder.data / "manifest.json").is_file() and (folder.data / "train.jsonl").is_file():
        num_valid = sum(1 for _ in folder.examples("valid"))
        sample, num_rows = _every_so_many(folder.examples("train"))
        notes.append(f"Rows and tokens: the data in {folder.data}")
        num_epoch = _mixed(recipe, lambda: _counts_built(folder), num_rows, notes)
    else:
        counts: Counter[str] = Counter()
        sample, num_read = _every_so_many(itertools.islice(_examples(recipe, counts), MOST_READ))
        split = recipe.data.split
        is_given = any(source.split for source in recipe.data.sources)
        num_rows = num_read if is_given else round(num_read * (1 - split.valid - split.test))
        num_valid = 0 if is_given else round(num_read * split.valid)
        more = " and more" if num_read == MOST_READ else ""
        notes.append(f"Rows and tokens: {len(sample)} of the {num_read}{more} rows of the sources, before cleaning and splitting")
        kept = {name: round(count * num_rows / num_read) for name, count in counts.items()}
        num_epoch = _mixed(recipe, lambda: None if more else kept, num_rows, notes)
    rows = encoded(sample)
    return _work(rows, num_epoch, num_valid, len(sample) < num_rows) if rows else None


def _mixed(recipe: Recipe, count: Callable[[], dict[str, int] | None], num_rows: int, notes: list[str]) -> int:
    """Rows of an epoch: all, or as many as the mix takes where the rows of each source are known. A note says which.

    Raises SettingsError where the mix can't be had, as training would.
    """
    settings = recipe.train.mix if recipe.train else None
    if settings is None or not num_rows:
        return num_rows
    counts = count()
    if counts is None:
        notes.append("train.mix is not counted, since the rows of each source are not known: steps and time are those without it")
        return num_rows
    found: Quotas = quotas(counts, settings)
    limit = f" ({found.limit})" if found.limit else ""
    notes.append(
        f"train.mix: an epoch has {found.num_rows:,} rows of the {num_rows:,}{limit}; tokens a row are the mean over all sources"
    )
    return found.num_rows


def _counts_built(folder: Folder) -> dict[str, int] | None:
    """Training examples by source of data that were built; None where the manifest does not say."""
    manifest = read_json(folder.data / "manifest.json")
    if not isinstance(manifest, dict) or "sources" not in manifest:
        return None
    return dict(Counter(sources_of((example.source for example in folder.examples("train")), manifest["sources"])))


def _examples(recipe: Recipe, counts: Counter[str]) -> Iterator[Example]:
    """The examples that would be trained or split, as the sources give them, counted by source."""
    for source in recipe.data.sources:
        if source.split in (None, "train"):
            for row in read(source, recipe.data.root or Path()):
                if isinstance(row, Example):
                    counts[source.name or source.path.as_posix()] += 1
                    yield row


def _every_so_many(examples: Iterator[Example]) -> tuple[list[Example], int]:
    """At most SAMPLE examples spread evenly over all, and how many there are."""
    kept: list[Example] = []
    stride = count = 1
    for count, example in enumerate(examples, 1):
        if (count - 1) % stride == 0:
            kept.append(example)
        if len(kept) > SAMPLE:
            kept, stride = kept[::2], 2 * stride
    return kept, count if kept else 0


def _work(rows: Sequence[Row], num_rows: int, num_valid: int, is_sample: bool) -> Work:
    prompts = [row.prompt_ids for row in rows]
    # What the first and the last in order begin with alike, all between them begin with too.
    ends = list(zip(min(prompts), max(prompts), strict=False))
    prefix = next((at for at, (left, right) in enumerate(ends) if left != right), len(ends))
    return Work(
        num_rows=num_rows,
        num_valid=num_valid,
        tokens=sum(row.num_tokens for row in rows) / len(rows),
        learnt=sum(len(row.answer_ids) for row in rows) / len(rows),
        prefix=prefix,
        longest=max(row.num_tokens for row in rows),
        is_sample=is_sample,
    )
