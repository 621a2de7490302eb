"""Writes a model folder as GGUF, tensor by tensor."""

import contextlib
import importlib.metadata
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from whet.errors import InputError, MissingExtraError, counted
from whet.export.gguf_families import Array, Layout, read_layout
from whet.export.gguf_tokenizer import TokenizerFields, read_tokenizer_fields
from whet.models.base_model import BaseModel
from whet.models.weights import Tensor, read_weights
from whet.storage import staged_file

PlainType = Literal["f32", "f16", "bf16", "q8_0"]
"""Types that are written without llama.cpp."""
_FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7, "bf16": 32}
ROWS_BYTES = 64 << 20  # of fp32 that are turned at a time


@dataclass(frozen=True, slots=True)
class Written:
    """What was written, and where it does less than the model."""

    path: Path
    arch: str
    pre_tokenizer: str
    """The family of pre-tokenizers that it was recognised as; empty for SentencePiece."""
    add_bos: bool
    num_tensors: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Planned:
    """A tensor of the file: its name and type there, and where its numbers come from."""

    name: str
    type: str
    shape: tuple[int, ...]
    source: Tensor | Array
    origin: str
    """Its name in the model folder."""


def open_gguf() -> Any:
    """The gguf package; MissingExtraError where it is not installed."""
    try:
        import gguf
    except ImportError:
        raise MissingExtraError("gguf", "gguf", "writing GGUF") from None
    return gguf


def write_gguf(model: BaseModel, path: Path, kind: PlainType, *, name: str = "") -> Written:
    """Write a model folder into one GGUF file, with its tokenizer and chat template.

    name: what the file says the model is called. InputError for models, tokenizers and numbers that can't be said rightly in
    the format or the type. Memory: about one tensor; f16 refuses numbers beyond 65,504 instead of writing infinity.
    """
    gguf = open_gguf()
    layout = read_layout(model.config, str(model.folder / "config.json"))
    tokens = read_tokenizer_fields(model.folder, model.config)
    planned, notes = _plan(gguf, model, layout, tokens, kind)
    with staged_file(path) as staged:
        writer = gguf.GGUFWriter(staged, layout.arch)
        try:
            writer.add_type("model")
            writer.add_name(shown_name(name or model.folder.name, tokens))
            writer.add_quantized_by(f"whet {importlib.metadata.version('whet')}")
            writer.add_file_type(_FILE_TYPES[kind])
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
            add_fields(writer, {f"{layout.arch}.{key}": value for key, value in layout.fields.items()})
            writer.add_vocab_size(len(tokens.names))
            add_fields(writer, tokens.fields)
            write_tensors(gguf, writer, layout, planned)
        finally:
            writer.close()
    everything = (*layout.notes, *tokens.notes, *notes)
    return Written(path, layout.arch, tokens.pre_tokenizer, tokens.add_bos, len(planned), everything)


def shown_name(name: str, tokens: TokenizerFields) -> str:
    """What the file says the model is called. llama.cpp lets marks take the white space behind them in where the name says
    phi-3, whatever the tokenizer does: so the name says it where the tokenizer does that, and nowhere else.
    """
    is_phi = any(word in name.lower() for word in ("phi-3", "phi3"))
    if tokens.marks_take_space and not is_phi:
        return f"{name} (phi-3 tokenizer)"
    if is_phi and not tokens.marks_take_space:
        return re.sub("(?i)phi-?3", "Phi 3", name)
    return name


def add_fields(writer: Any, fields: Mapping[str, Any]) -> None:
    """Fields by their whole names; the kind follows from the value: whole numbers are 32 bits without sign."""
    for key, value in fields.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)


def tensor_names(gguf: Any, layout: Layout) -> Any:
    """The format's names of the family's tensors."""
    number = next(number for number, text in gguf.MODEL_ARCH_NAMES.items() if text == layout.arch)
    return gguf.get_tensor_name_map(number, layout.sizes.layers)


def _plan(
    gguf: Any, model: BaseModel, layout: Layout, tokens: TokenizerFields, kind: PlainType
) -> tuple[list[_Planned], list[str]]:
    """The tensors of the file in the order of the model's files, and what is to be said of their types."""
    names, planned, coarse = tensor_names(gguf, layout), [], []
    for origin, tensor in read_weights(model.folder).items():
        if (origin == "lm_head.weight" and layout.sizes.is_tied) or origin.endswith(".rotary_emb.inv_freq"):
            continue  # the embedding stands for it; a table that the runner computes
        name = names.get_name(origin, try_suffixes=(".weight", ".bias"))
        if name is None or not tensor.is_float:
            what = f"holds {tensor.dtype} numbers" if name else f"is none that GGUF knows of {layout.arch} models"
            raise InputError(str(tensor.path), f"the tensor {origin[:100]!r} {what}")
        written_as = _type_of(tensor.shape, name, kind)
        if written_as != kind and len(tensor.shape) > 1:
            coarse.append(name)
        planned.append(_Planned(name, written_as, tensor.shape, tensor, origin))
    planned += [_Planned(name, "f32", array.shape, array, "") for name, array in layout.extra.items()]
    _check(model, layout, tokens, planned)
    if not coarse:
        return planned, []
    written = counted(len(coarse), "tensor", "is", "are")
    return planned, [f"{written} written in f16, for rows that are no multiple of 32 numbers ({coarse[0]}, ...)"]


def _check(model: BaseModel, layout: Layout, tokens: TokenizerFields, planned: list[_Planned]) -> None:
    """The tensors that every model has are there, once, with a row for each token."""
    shapes = {tensor.name: tensor.shape for tensor in planned}
    wanted = ["token_embd.weight", "output_norm.weight"] + ([] if layout.sizes.is_tied else ["output.weight"])
    wanted += [f"blk.{number}.ffn_down.weight" for number in range(layout.sizes.layers)]
    if missing := [name for name in wanted if name not in shapes]:
        raise InputError(str(model.folder), f"its weights lack {counted(len(missing), 'tensor')}, such as that of {missing[0]}")
    if len(shapes) != len(planned):
        raise InputError(str(model.folder), "two of its tensors would have one name")
    for name in ("token_embd.weight", "output.weight"):
        if name in shapes and shapes[name][0] != len(tokens.names):
            raise InputError(
                str(model.folder), f"{name} has {shapes[name][0]:,} rows; its config says {len(tokens.names):,} tokens"
            )


def _type_of(shape: tuple[int, ...], name: str, kind: PlainType) -> str:
    """Vectors stay in f32: runners compute with them in f32, and they take no room."""
    if len(shape) < 2:
        return "f32"
    return "f16" if kind == "q8_0" and shape[-1] % 32 else kind


def write_tensors(gguf: Any, writer: Any, layout: Layout, planned: list[_Planned]) -> None:
    """Header, fields and tensor infos, then the tensors themselves, one in memory at a time."""
    kinds = {kind: gguf.GGMLQuantizationType[kind.upper()] for kind in get_args(PlainType)}
    for tensor in planned:
        block, block_bytes = gguf.GGML_QUANT_SIZES[kinds[tensor.type]]
        num = int(np.prod(tensor.shape, dtype=np.int64))
        writer.add_tensor_info(tensor.name, tensor.shape, np.float32, num // block * block_bytes, raw_dtype=kinds[tensor.type])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in planned:
        writer.write_tensor_data(_pack(gguf, tensor, layout, kinds[tensor.type]))


def _pack(gguf: Any, tensor: _Planned, layout: Layout, kind: Any) -> NDArray[Any]:
    """A tensor's numbers in the type of the file."""
    change = layout.change(tensor.origin)
    parts = []
    for array in _rows(tensor, whole=change is not None):
        changed = change(array) if change else array
        if tensor.type == "f16" and not np.all(np.abs(changed) <= np.finfo(np.float16).max):
            raise InputError(tensor.origin, "holds numbers beyond 65,504, the largest of f16", "Export it as bf16 or f32")
        parts.append(gguf.quantize(changed, kind))
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def _rows(tensor: _Planned, *, whole: bool) -> Iterator[Array]:
    """A tensor's rows in fp32, some at a time; all at once where their order is changed."""
    source = tensor.source
    if isinstance(source, np.ndarray):
        yield source
    elif whole or len(source.shape) < 2:
        yield source.read()
    else:
        step = max(1, ROWS_BYTES // (4 * int(np.prod(source.shape[1:], dtype=np.int64)) or 1))
        for start in range(0, source.shape[0], step):
            yield source.rows(start, min(start + step, source.shape[0]))


@contextlib.contextmanager
def plain_beside(model: BaseModel, path: Path, kind: PlainType, name: str) -> Iterator[tuple[Path, Written]]:
    """A GGUF file in a plain type beside `path`, cleared away afterwards: what a quantiser starts from."""
    plain = path.with_name(f".{path.name}.{kind}.gguf")
    try:
        written = write_gguf(model, plain, kind, name=name)
        yield plain, written
    finally:
        plain.unlink(missing_ok=True)
