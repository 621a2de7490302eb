"""A model's weights as one safetensors file, or as shards with an index."""

from collections.abc import Sequence
from pathlib import Path

from whet.models.weights import INDEX, SINGLE
from whet.models.writing import Written, write_weights_file
from whet.storage import write_json


def write_shards(folder: Path, tensors: Sequence[Written], max_bytes: int) -> list[str]:
    """Write tensors into an existing folder, as one file or as shards of at most `max_bytes` with an index; gives the names.

    A tensor that is larger has a file of its own. Memory is that of one piece.
    """
    shards = _shards(tensors, max_bytes)
    names = [SINGLE] if len(shards) == 1 else [f"model-{n:05}-of-{len(shards):05}.safetensors" for n in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        write_weights_file(folder / name, shard)
    if len(shards) > 1:
        places = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        metadata = {"total_size": sum(tensor.num_bytes for tensor in tensors)}
        write_json(folder / INDEX, {"metadata": metadata, "weight_map": dict(sorted(places.items()))})
    return names


def _shards(tensors: Sequence[Written], max_bytes: int) -> list[list[Written]]:
    shards: list[list[Written]] = [[]]
    room = max_bytes
    for tensor in tensors:
        if shards[-1] and tensor.num_bytes > room:
            shards.append([])
            room = max_bytes
        shards[-1].append(tensor)
        room -= tensor.num_bytes
    return shards
