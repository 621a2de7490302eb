"""Where a GGUF file's tensors lie furthest from the model folder's, for a certificate that failed."""

from pathlib import Path

import numpy as np

from whet.export.gguf_families import read_layout
from whet.export.gguf_write import open_gguf, tensor_names
from whet.models.base_model import BaseModel
from whet.models.gguf_file import read_gguf
from whet.models.weights import read_weights


def worst_tensors(model: BaseModel, path: Path, num: int = 5) -> list[str]:
    """The tensors that differ most, by the root of the mean square of the difference over that of the values, in words.

    One tensor is in memory at a time. Tensors that the file lacks, or has in another shape, come first.
    """
    gguf = open_gguf()
    layout = read_layout(model.config, str(model.folder))
    names, file = tensor_names(gguf, layout), read_gguf(path)
    stored = {tensor.name: tensor for tensor in file.tensors}
    found: list[tuple[float, str]] = []
    for origin, tensor in read_weights(model.folder).items():
        name = names.get_name(origin, try_suffixes=(".weight", ".bias"))
        if name is None or (origin == "lm_head.weight" and layout.sizes.is_tied):
            continue
        if name not in stored or stored[name].shape != tensor.shape:
            found.append((float("inf"), f"{name} is missing or has another shape"))
            continue
        kind = gguf.GGMLQuantizationType[stored[name].type]
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        raw = file.read(stored[name]).reshape(*tensor.shape[:-1], tensor.shape[-1] // block * block_bytes)
        change = layout.change(origin)
        wanted = change(tensor.read()) if change else tensor.read()
        values = np.asarray(gguf.dequantize(raw, kind), np.float32).reshape(wanted.shape)
        size = float(np.sqrt(np.square(wanted, dtype=np.float64).mean())) or 1.0
        off = float(np.sqrt(np.square(values - wanted, dtype=np.float64).mean())) / size
        found.append((off if np.isfinite(off) else float("inf"), f"{name} ({stored[name].type}) is off by {off:.2%} of its size"))
    return [words for off, words in sorted(found, key=lambda item: -item[0])[:num] if off > 0] or [
        "every tensor holds the folder's numbers exactly: what differs is the template, the tokenizer or the runner"
    ]
