"""The reader of GGUF headers against the format's own package, hostile files, and random damage."""

import struct
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES
from hypothesis import given
from hypothesis import strategies as st

from whet.errors import InputError
from whet.models.gguf_file import MAX_HEADER, TYPES, read_gguf


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a field of every kind and tensors of several types, written by the format's package."""
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for kind, value in (("uint8", 7), ("int8", -7), ("uint16", 700), ("int16", -700), ("uint32", 70_000), ("int32", -70_000)):
        getattr(writer, f"add_{kind}")(f"a.{kind}", value)
    writer.add_uint64("a.uint64", 2**40)
    writer.add_int64("a.int64", -(2**40))
    writer.add_float32("a.float32", 0.5)
    writer.add_float64("a.float64", 0.1)
    writer.add_bool("a.bool", True)
    writer.add_string("a.string", "程富 'x'")
    writer.add_array("a.numbers", [1, 2, 3])
    writer.add_array("a.texts", ["a", "", "程"])
    writer.add_array("a.bools", [True, False])
    rng = np.random.default_rng(0)
    writer.add_tensor("one", rng.standard_normal((3, 5)).astype(np.float32))
    writer.add_tensor("two", rng.standard_normal(7).astype(np.float16))
    packed = gguf.quantize(rng.standard_normal((4, 64)).astype(np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("three", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_it_reads_what_the_formats_package_reads(valid: Path) -> None:
    found, wanted = read_gguf(valid), gguf.GGUFReader(valid)
    for key, field in wanted.fields.items():
        if not key.startswith("GGUF."):
            ours = found.fields[key]
            assert (ours.tolist() if isinstance(ours, np.ndarray) else ours) == field.contents(), key
    assert len(found.fields) == len([key for key in wanted.fields if not key.startswith("GGUF.")])
    for ours, theirs in zip(found.tensors, wanted.tensors, strict=True):
        assert (ours.name, ours.type, ours.offset) == (theirs.name, theirs.tensor_type.name, theirs.data_offset)
        assert ours.shape == tuple(reversed(theirs.shape.tolist()))
        assert found.read(ours).tobytes() == theirs.data.tobytes()


def test_the_table_of_types_is_the_formats() -> None:
    assert {kind.value: (kind.name, *sizes) for kind, sizes in GGML_QUANT_SIZES.items()} == TYPES


def text(words: str) -> bytes:
    return struct.pack("<Q", len(words.encode())) + words.encode()


def header(tensors: int = 0, fields: int = 0, rest: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, fields) + rest


def tensor(name: str = "t", shape: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no GGUF"),
    "another format": (b"PK\3\4" + bytes(100), "no GGUF"),
    "cut in the counts": (b"GGUF\3\0\0\0" + bytes(8), "no GGUF"),
    "old": (header(version=1), "version 1"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "2^63 fields": (header(fields=2**63), "more than it has room for"),
    "2^63 tensors": (header(tensors=2**63), "more than it has room for"),
    "many fields in no room": (header(fields=60_000), "more than it has room for"),
    "a name of 2^64-1 bytes": (header(fields=1, rest=struct.pack("<Q", 2**64 - 1) + bytes(20)), "at most 65,535"),
    "a text beyond the end": (header(fields=1, rest=text("k") + struct.pack("<IQ", 8, 1 << 40)), "more than the file"),
    "an unknown kind": (header(fields=1, rest=text("k") + struct.pack("<I", 99) + bytes(9)), "kind 99"),
    "an array of 2^60 numbers": (header(fields=1, rest=text("k") + struct.pack("<IIQ", 9, 12, 2**60)), "more than the file"),
    "an array of 2^60 texts": (header(fields=1, rest=text("k") + struct.pack("<IIQ", 9, 8, 2**60)), "more than it has room"),
    "arrays in arrays": (header(fields=1, rest=text("k") + struct.pack("<IIQ", 9, 9, 5) * 40), "does not read"),
    "a field twice": (header(fields=2, rest=(text("k") + struct.pack("<IB", 0, 1)) * 2), "twice"),
    "a strange alignment": (header(fields=1, rest=text("general.alignment") + struct.pack("<II", 4, 3)), "power of two"),
    "no alignment": (header(fields=1, rest=text("general.alignment") + struct.pack("<II", 4, 0)), "power of two"),
    "an alignment that is a text": (header(fields=1, rest=text("general.alignment") + struct.pack("<I", 8) + text("32")), "power of two"),
    "many dimensions": (header(1, rest=text("t") + struct.pack("<I", 2**32 - 1) + bytes(40)), "dimensions"),
    "an empty tensor": (header(1, rest=tensor(shape=(0,))), "can't be"),
    "a product beyond 64 bits": (header(1, rest=tensor(shape=(2**32, 2**32, 2**32))), "can't be"),
    "rows that end within a block": (header(1, rest=tensor(shape=(33,), kind=8)), "can't be"),
    "an unknown type": (header(1, rest=tensor(kind=4) + bytes(64)), "type 4"),
    "an offset beyond the end": (header(1, rest=tensor(offset=1 << 40) + bytes(64)), "would end at byte"),
    "an offset that wraps": (header(1, rest=tensor(offset=2**64 - 32) + bytes(64)), "would end at byte"),
    "an offset that is not aligned": (header(1, rest=tensor(offset=4) + bytes(64)), "not aligned"),
    "data that is not there": (header(1, rest=tensor(shape=(1 << 20,)) + bytes(64)), "would end at byte"),
    "two tensors on each other": (header(2, rest=tensor("a", (16,)) + tensor("b", (4,)) + bytes(128)), "lie on each other"),
    "two tensors of one name": (header(2, rest=tensor() + tensor(offset=32) + bytes(128)), "of one name"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    content, words = HOSTILE[name]
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(InputError) as caught:
        read_gguf(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert peak < 1_000_000


def test_a_file_with_holes_costs_no_memory(tmp_path: Path) -> None:
    """A sparse file has room for any count: what is read of it stays below the largest header."""
    path = tmp_path / "x.gguf"
    with path.open("wb") as file:
        file.write(header(fields=1, rest=text("k") + struct.pack("<IIQ", 9, 0, 2**33)))
        file.truncate(2**34)
    tracemalloc.start()
    with pytest.raises(InputError, match="that a header may have"):
        read_gguf(path)
    with path.open("r+b") as file:
        file.write(header(fields=1, rest=text("k") + struct.pack("<IIQ", 9, 8, 2**30)))
    with pytest.raises(InputError, match="more than it has room for"):
        read_gguf(path)
    assert tracemalloc.get_traced_memory()[1] < MAX_HEADER // 100
    tracemalloc.stop()


@pytest.mark.parametrize("place", ["absent", "folder"])
def test_what_is_no_file_is_refused(place: str, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        read_gguf(tmp_path if place == "folder" else tmp_path / "no.gguf")


@given(data=st.data())
def test_damage_is_refused_or_harmless(valid: Path, tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    content = bytearray(valid.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(["byte", "number", "cut", "insert"]))
        if kind == "byte":
            content[at] = data.draw(st.integers(0, 255))
        elif kind == "number":
            content[at : at + 8] = data.draw(st.sampled_from([0, 1, 2**31, 2**32, 2**63 - 1, 2**64 - 1])).to_bytes(8, "little")
        elif kind == "cut":
            del content[max(1, at) :]
        else:
            content[at:at] = data.draw(st.binary(max_size=9))
    path = tmp_path_factory.mktemp("damaged") / "x.gguf"
    path.write_bytes(content)
    try:
        found = read_gguf(path)
    except InputError as error:
        assert "\n" not in str(error)
        return
    for info in found.tensors:
        assert len(found.read(info)) == info.num_bytes
