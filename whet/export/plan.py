"""Which tensor of a base each part of an adapter changes, decided before anything is written; what finds no place is refused."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from whet.errors import InputError, counted
from whet.export.merge import Add, AddBias, Change, Plain, Replace, Rows
from whet.models.lora import EMBEDDINGS, HEADS, Lora, LoraLayer
from whet.models.quantised import Packed
from whet.models.weights import Tensor

_MISFIT = "It belongs to another base; give the one that it was trained on"


@dataclass(slots=True)
class Target:
    """A tensor of the fused model: the base's it starts from, and what changes it, made when its turn comes."""

    name: str
    base: Tensor | Packed
    num_rows: int
    """Rows that it will have; another number than the base's where the vocabulary changed."""
    whole: Tensor | None = None
    layer: LoraLayer | None = None
    bias: LoraLayer | None = None

    @property
    def is_changed(self) -> bool:
        return bool(self.whole or self.layer or self.bias)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.num_rows, *self.base.shape[1:]) if self.base.shape else ()

    def rows(self) -> Rows:
        """The base's numbers."""
        return Plain(self.base, self.num_rows)

    def changes(self) -> list[Change]:
        """What is done to them, in order; the adapter's tensors are read here."""
        made: list[Change] = []
        source: Rows = self.rows()
        if self.whole is not None:
            made.append(Replace(self.whole))
            source = Plain(self.whole, self.num_rows)
        if self.layer is not None:
            made.append(Add(self.layer, source))
        if self.bias is not None:
            made.append(AddBias(self.bias))
        return made


@dataclass(slots=True)
class Plan:
    """The fused model's tensors, in the order of the base's files, and what its config must say besides."""

    targets: dict[str, Target]
    config: dict[str, Any] = field(default_factory=dict)
    """Entries of config.json that change."""
    notes: list[str] = field(default_factory=list)
    """What is to be told of the fusion."""


def plan_fusion(tensors: Mapping[str, Tensor | Packed], config: Mapping[str, Any], lora: Lora) -> Plan:
    """The plan of an adapter's fusion. InputError where a tensor of it has no place in the base, or one of another shape.

    Head and embedding of a tied base stay one where the adapter changes both alike; else they are parted, as they were when
    the adapter was trained: PEFT computes the head with the base's embedding unless it is told to tie what it adds.
    """
    vocabulary = _Vocabulary(tensors, config)
    targets = {
        name: Target(name, tensor, tensor.shape[0] if tensor.shape else 0)
        for name, tensor in tensors.items()
        if not (vocabulary.is_tied and name == vocabulary.head)
    }
    plan = Plan(targets)
    layers, whole = dict(lora.layers), dict(lora.whole)
    if vocabulary.is_tied:
        _part(plan, vocabulary, layers, whole, bool(lora.config.get("ensure_weight_tying")))
    for name, tensor in whole.items():
        _replace(plan, name, tensor, lora)
    for module, layer in layers.items():
        target = _find(plan.targets, f"{module}.weight", lora)
        if target.shape != layer.shape:
            raise InputError(
                str(lora.folder), f"{module} is {list(target.shape)} in this base, and the adapter was made for "
                f"{list(layer.shape)}", _MISFIT,
            )  # fmt: skip
        _refuse_quantised(target)
        target.layer = layer
        if layer.bias is not None:
            biased = _find(plan.targets, f"{module}.bias", lora, "the adapter adds a bias where the base has none")
            biased.bias = layer
    _grow(plan, vocabulary, config, lora)
    return plan


def plan_full(
    tensors: Mapping[str, Tensor | Packed], trained: Mapping[str, Tensor], config: Mapping[str, Any], place: str
) -> Plan:
    """The plan for a model that was trained whole: each of its tensors stands in the place of the base's of that name."""
    vocabulary = _Vocabulary(tensors, config)
    spare = {vocabulary.head} if vocabulary.is_tied else set()
    odd = sorted((tensors.keys() ^ trained.keys()) - spare)
    odd += [name for name in tensors.keys() & trained.keys() if tensors[name].shape != trained[name].shape]
    if odd:
        misfits = counted(len(odd), "tensor", "does", "do")
        raise InputError(place, f"{misfits} not match the base's, such as {odd[0][:120]}", _MISFIT)
    targets = {}
    for name, tensor in tensors.items():
        if name not in spare:
            targets[name] = Target(name, tensor, tensor.shape[0] if tensor.shape else 0)
            _refuse_quantised(targets[name])
            targets[name].whole = trained[name] if tensor.shape else None
    return Plan(targets)


class _Vocabulary:
    """Names of a base's embedding and head, and whether they are one."""

    def __init__(self, tensors: Mapping[str, Tensor | Packed], config: Mapping[str, Any]) -> None:
        self.embedding = _only(tensors, EMBEDDINGS)
        self.head = _only(tensors, HEADS)
        nested = config.get("text_config")
        said = config.get("tie_word_embeddings", nested.get("tie_word_embeddings") if isinstance(nested, dict) else None)
        # A head that is not there can only be the embedding, whatever the config leaves out.
        self.is_tied = bool(self.embedding) and (not self.head or said is True)
        self.head = self.head or "lm_head.weight"


def _only(tensors: Mapping[str, Any], modules: Sequence[str]) -> str:
    """Name of the weight of the one module that is called so; empty where there is none, or several."""
    found = [name for name in tensors if name.split(".")[-2:-1] and name.split(".")[-2] in modules and name.endswith(".weight")]
    return found[0] if len(found) == 1 else ""


def _is_head(module: str) -> bool:
    return module.rpartition(".")[2] in HEADS


def _is_embedding(module: str) -> bool:
    return module.rpartition(".")[2] in EMBEDDINGS


def _part(
    plan: Plan, vocabulary: _Vocabulary, layers: dict[str, LoraLayer], whole: dict[str, Tensor], is_kept_tied: bool
) -> None:
    """Give a tied head a tensor of its own where the adapter changes head and embedding otherwise; else forget its part."""

    def pick(found: Mapping[str, Any], is_it: Callable[[str], bool], ending: str) -> dict[str, Any]:
        return {name: value for name, value in found.items() if name.endswith(ending) and is_it(name.removesuffix(ending))}

    head = pick(layers, _is_head, "") | pick(whole, _is_head, ".weight")
    embedding = pick(layers, _is_embedding, "") | pick(whole, _is_embedding, ".weight")
    if not head and (not embedding or is_kept_tied):
        return
    if (
        head
        and len(head) == len(embedding)
        and all(_are_alike(*pair) for pair in zip(_sorted(embedding), _sorted(head), strict=True))
    ):
        for name in head:
            layers.pop(name, None)
            whole.pop(name, None)
        plan.notes.append("head and embedding are one, as in the base")
        return
    source = plan.targets[vocabulary.embedding].base
    plan.targets[vocabulary.head] = Target(vocabulary.head, source, source.shape[0])
    plan.config["tie_word_embeddings"] = False
    plan.notes.append(
        "the base's head is its embedding; the adapter changes them differently, so the fused model has a head of its own"
    )


def _sorted(found: Mapping[str, Any]) -> list[Any]:
    return sorted(found.values(), key=lambda value: isinstance(value, LoraLayer))


def _are_alike(embedding: Tensor | LoraLayer, head: Tensor | LoraLayer) -> bool:
    """Whether what is done to the embedding is what is done to the head."""
    if isinstance(embedding, Tensor) and isinstance(head, Tensor):
        return embedding.shape == head.shape and embedding.dtype == head.dtype and _same(embedding.pieces(), head.pieces())
    if not isinstance(embedding, LoraLayer) or not isinstance(head, LoraLayer) or embedding.magnitude or head.magnitude:
        return False
    is_turned = embedding.a.shape[::-1] == head.b.shape and embedding.b.shape[::-1] == head.a.shape
    if not is_turned or embedding.scale != head.scale:
        return False
    return bool((head.b.read() == embedding.a.read().T).all() and (head.a.read() == embedding.b.read().T).all())


def _same(one: Iterator[bytes], other: Iterator[bytes]) -> bool:
    return all(a == b for a, b in zip(one, other, strict=True))


def _find(targets: Mapping[str, Target], name: str, lora: Lora, what: str = "") -> Target:
    """The tensor of this name; files written from a bare model leave the first part of it out (`model.`, `transformer.`)."""
    found = targets.get(name) or targets.get(name.partition(".")[2])
    if found is None:
        raise InputError(str(lora.folder), what or f"changes {name[:120]}, which this base has not", _MISFIT)
    return found


def _replace(plan: Plan, name: str, tensor: Tensor, lora: Lora) -> None:
    target = _find(plan.targets, name, lora)
    module = target.name.rpartition(".")[0]
    if tensor.shape != target.base.shape:
        is_resized = (_is_head(module) or _is_embedding(module)) and tensor.shape[1:] == target.base.shape[1:] and tensor.shape
        if not is_resized:
            raise InputError(
                str(lora.folder), f"{name[:120]} is {list(tensor.shape)}, and {list(target.base.shape)} in this base", _MISFIT
            )
        target.num_rows = tensor.shape[0]
    _refuse_quantised(target)
    target.whole = tensor


def _grow(plan: Plan, vocabulary: _Vocabulary, config: Mapping[str, Any], lora: Lora) -> None:
    """Where the vocabulary changed, embedding and head must have changed alike; the config says how large it is."""
    rows = {t.num_rows for t in plan.targets.values() if t.name in (vocabulary.embedding, vocabulary.head)}
    if len(rows) > 1:
        raise InputError(
            str(lora.folder),
            f"embedding and head have {' and '.join(map(str, sorted(rows)))} rows after the fusion",
            "Train both with the adapter: modules_to_save=[embed_tokens, lm_head]",
        )
    embedding = plan.targets.get(vocabulary.embedding)
    if embedding is None or embedding.num_rows == embedding.base.shape[0]:
        return
    nested = config.get("text_config")
    if isinstance(nested, dict) and "vocab_size" in nested:
        plan.config["text_config"] = {**nested, "vocab_size": embedding.num_rows}
    else:
        plan.config["vocab_size"] = embedding.num_rows
    plan.notes.append(f"the vocabulary has {embedding.num_rows} rows, the base's {embedding.base.shape[0]}")


def _refuse_quantised(target: Target) -> None:
    if not target.base.is_float:
        raise InputError(str(target.base.path), f"{target.name[:120]} holds {target.base.dtype}: the base is quantised")
