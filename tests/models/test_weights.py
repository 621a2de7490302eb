"""Weights and descriptions of strangers: what is hostile is refused in one line, in bounded memory, with no code run."""

import json
import os
import pickle
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from whet.errors import InputError
from whet.models.adapter import open_adapter
from whet.models.base_model import BaseModel, open_base
from whet.models.described import MAX_DESCRIPTION, read_config, read_description
from whet.models.mlx_adapter import read_adapter
from whet.models.numbers import from_float32, to_float32
from whet.models.weights import INDEX, MAX_HEADER, is_plain_name, read_weights, read_weights_file, weights_files
from whet.models.writing import Written, write_weights_file, written_matrix


def file_of(path: Path, header: Any, data: bytes = b"\0" * 16, length: int | None = None) -> Path:
    """A safetensors file by hand, as the format's page describes it."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def entry(dtype: Any = "F32", shape: Any = (4,), offsets: Any = (0, 16)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape) if isinstance(shape, tuple) else shape,
            "data_offsets": list(offsets) if isinstance(offsets, tuple) else offsets}  # fmt: skip


HOSTILE: dict[str, Any] = {
    "offset beyond the file": {"w": entry(offsets=(0, 2**40), shape=(2**38,))},
    "offset of 2^64": {"w": entry(offsets=(2**64 - 16, 2**64))},
    "negative offset": {"w": entry(offsets=(-16, 0))},
    "turned offsets": {"w": entry(offsets=(16, 0))},
    "offsets that are no numbers": {"w": entry(offsets=("0", "16"))},
    "offsets that are fractions": {"w": entry(offsets=(0.0, 16.0))},
    "offsets that are true": {"w": entry(offsets=(False, 16))},
    "three offsets": {"w": entry(offsets=(0, 8, 16))},
    "overlap": {"a": entry(shape=(2,), offsets=(0, 8)), "b": entry(shape=(3,), offsets=(4, 16))},
    "the same bytes twice": {"a": entry(), "b": entry()},
    "hole": {"a": entry(shape=(1,), offsets=(0, 4)), "b": entry(shape=(2,), offsets=(8, 16))},
    "bytes of nobody": {"a": entry(shape=(2,), offsets=(0, 8))},
    "nothing but bytes": {},
    "shape of more numbers": {"w": entry(shape=(5,))},
    "shape that overflows": {"w": entry(shape=(2**32, 2**32, 4))},
    "negative shape": {"w": entry(shape=(-2, -2))},
    "shape that is no list": {"w": entry(shape="4")},
    "shape of very many axes": {"w": entry(shape=tuple([1] * 1000 + [4]))},
    "unknown numbers": {"w": entry(dtype="Q4_K")},
    "numbers that are a list": {"w": entry(dtype=["F32"])},
    "an entry more": {"w": entry() | {"code": "x"}},
    "no entry": {"w": 3},
    "no table": [1, 2],
    "metadata that is code": {"__metadata__": {"a": {"b": 1}}, "w": entry()},
    "metadata that is a list": {"__metadata__": [1], "w": entry()},
    "twice the same name": b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
    "deep": b"[" * 200_000,
    "not JSON": b"{{{{",
    "not UTF-8": b'{"\xff": 1}',
    "a number of a million digits": b'{"w": ' + b"9" * 1_000_000 + b"}",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_header_is_one_line(kind: str, tmp_path: Path) -> None:
    path = file_of(tmp_path / "model.safetensors", HOSTILE[kind])
    with pytest.raises(InputError, match="is no safetensors file") as caught:
        read_weights_file(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(path))


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**63, 2**64 - 1, MAX_HEADER + 1])
def test_a_header_length_is_not_believed(length: int, tmp_path: Path) -> None:
    path = file_of(tmp_path / "m.safetensors", {"w": entry()}, length=length)
    with path.open("r+b") as file:
        file.truncate(MAX_HEADER * 2)  # a hole: nothing is written
    tracemalloc.start()
    with pytest.raises(InputError, match="is no safetensors file"):
        read_weights_file(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_names_are_shown_without_their_control_characters(tmp_path: Path) -> None:
    name = "\x1b[2J\n\r" + "x" * 5000
    path = file_of(tmp_path / "m.safetensors", {name: entry(shape=(5,))})
    with pytest.raises(InputError) as caught:
        read_weights_file(path)
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(path))


@st.composite
def broken_files(draw: st.DrawFn) -> bytes:
    """A good file of two tensors with some bytes changed, cut out or put in."""
    raw = bytearray(
        json.dumps({"a": entry(dtype="BF16", shape=(2, 3), offsets=(0, 12)), "b": entry(shape=(1,), offsets=(12, 16))}).encode()
    )
    raw = bytearray(struct.pack("<Q", len(raw))) + raw + bytearray(16)
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(raw) - 1))
        match draw(st.sampled_from(["set", "digit", "cut", "put"])):
            case "set":
                raw[at] = draw(st.integers(0, 255))
            case "digit":  # numbers are what matters most: change one where there is one
                places = [place for place, byte in enumerate(raw) if chr(byte).isdigit()]
                if places:
                    raw[places[at % len(places)]] = draw(st.sampled_from(b"0123456789-"))
            case "cut":
                del raw[at : at + draw(st.integers(1, 9))]
            case "put":
                raw[at:at] = draw(st.binary(max_size=9))
        if not raw:
            break
    return bytes(raw)


@given(broken_files())
def test_what_is_let_in_is_what_the_formats_own_reader_lets_in(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "m.safetensors"
    path.write_bytes(raw)
    try:
        ours = read_weights_file(path).tensors
    except InputError as error:
        assert "\n" not in str(error)
        return
    try:
        with safe_open(path, "np") as file:
            theirs = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise AssertionError(f"it was let in: {raw!r}") from error
    assert {name: tensor.shape for name, tensor in ours.items()} == theirs
    assert all(8 <= tensor.start <= tensor.end <= len(raw) for tensor in ours.values())


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_read(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "f"
    path.write_bytes(raw)
    for read in (read_weights_file, read_description, read_config):
        try:
            read(path)  # type: ignore[operator]
        except InputError as error:
            assert "\n" not in str(error)


def test_good_files_are_read_whole(tmp_path: Path) -> None:
    tensors = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.arange(5, dtype=np.float16), "empty": np.zeros((0, 4), np.float32),
        "one": np.array(3.5, np.float64), "ids": np.arange(4, dtype=np.int64),
    }  # fmt: skip
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "np"})
    found = read_weights_file(tmp_path / "model.safetensors")
    assert found.metadata == {"format": "np"}
    for name, array in tensors.items():
        assert found.tensors[name].shape == array.shape
        assert b"".join(found.tensors[name].pieces(3)) == array.tobytes()
        if name != "ids":
            assert (found.tensors[name].read() == array).all()
    assert (found.tensors["b"].rows(1, 2) == tensors["b"][1:2]).all()
    with pytest.raises(InputError, match="ids holds I64, no floating-point"):
        found.tensors["ids"].read()


def test_a_file_of_mlx_without_metadata_is_read(tmp_path: Path) -> None:
    import mlx.core as mx

    mx.save_safetensors(str(tmp_path / "m.safetensors"), {"w": mx.ones((2, 2), mx.bfloat16)})
    assert (read_weights_file(tmp_path / "m.safetensors").tensors["w"].read() == 1).all()


def test_what_is_written_others_read(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    odd = Written("odd", "U8", (3,), lambda: iter([b"ab", b"c"]))
    write_weights_file(
        path,
        [odd, written_matrix("wide", "F64", np.ones((2, 2))), written_matrix("turned", "F32", np.eye(2, 3, dtype=np.float32).T)],
    )
    with safe_open(path, "np") as file:
        assert bytes(file.get_tensor("odd")) == b"abc"
        assert (file.get_tensor("turned") == np.eye(3, 2)).all()
        assert file.metadata() == {"format": "pt"}
    assert read_weights_file(path).tensors["wide"].start % 8 == 0


@pytest.mark.integration
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_bf16_is_rounded_as_torch_rounds(values: list[float]) -> None:
    import torch

    array = np.array(values, np.float32)
    for dtype, kind in (("BF16", torch.bfloat16), ("F16", torch.float16)):
        raw = from_float32(array, dtype)
        assert (np.frombuffer(raw, np.int16) == torch.from_numpy(array).to(kind).view(torch.int16).numpy()).all()
        assert np.array_equal(to_float32(raw, dtype), torch.from_numpy(array).to(kind).float().numpy())


def sharded(folder: Path, **places: Any) -> Path:
    """A folder with an index of two shards, its weight_map changed."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    for name in "ab":
        save_file({name: np.ones(2, np.float32)}, folder / f"{name}.safetensors")
    found = {"a": "a.safetensors", "b": "b.safetensors"} | places
    (folder / INDEX).write_text(json.dumps({"weight_map": found}))
    return folder


def test_shards_are_read_by_their_index(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "m")
    save_file({"consolidated": np.ones(2, np.float32)}, folder / "other.safetensors")
    assert [path.name for path in weights_files(folder)] == ["a.safetensors", "b.safetensors"]
    assert set(read_weights(folder)) == {"a", "b"}


@pytest.mark.parametrize("name", [
    "../a.safetensors", "/etc/passwd", "/tmp/a.safetensors", "x/../../a.safetensors", "..\\a.safetensors", "C:a.safetensors", "",
    ".", "..", "a.bin", "a\n.safetensors", "a\0.safetensors", 3, None, ["a.safetensors"], {"a": 1},
], ids=repr)  # fmt: skip
def test_an_index_leaves_its_folder_nowhere(name: Any, tmp_path: Path) -> None:
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "a.safetensors")
    folder = sharded(tmp_path / "m", a=name)
    for read in (read_weights, open_base):
        with pytest.raises(InputError, match="a file that can't be") as caught:
            read(folder)  # type: ignore[operator]
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("places", "words"), [
    ({"c": "c.safetensors"}, r"1 missing file, such as c\.safetensors"),
    ({"c": "a.safetensors"}, "1 tensor stands elsewhere than it says, such as c"),
    ({"a": "b.safetensors"}, "1 tensor stands elsewhere than it says, such as a"),
])  # fmt: skip
def test_an_index_that_is_wrong_is_refused(places: dict[str, str], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        read_weights(sharded(tmp_path / "m", **places))


@pytest.mark.parametrize("text", ["{}", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": {"a": NaN}}', "[]", "{"])
def test_an_index_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    folder = sharded(tmp_path / "m")
    (folder / INDEX).write_text(text)
    with pytest.raises(InputError):
        read_weights(folder)


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "m")
    save_file({"a": np.ones(2, np.float32)}, folder / "b.safetensors")
    (folder / INDEX).unlink()
    with pytest.raises(InputError, match=r"a stands in a\.safetensors too"):
        read_weights(folder)


def test_links_out_of_the_folder_are_refused_and_those_of_a_cache_are_not(tmp_path: Path) -> None:
    outside = tmp_path / "secret.safetensors"
    save_file({"a": np.ones(2, np.float32)}, outside)
    folder = sharded(tmp_path / "m")
    (folder / "a.safetensors").unlink()
    (folder / "a.safetensors").symlink_to(outside)
    for read in (read_weights, open_base):
        with pytest.raises(InputError, match="is a link out of its folder"):
            read(folder)  # type: ignore[operator]
    blobs, snapshot = tmp_path / "cache" / "blobs", tmp_path / "cache" / "snapshots" / ("a" * 40)
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    outside.rename(blobs / "abc")
    (snapshot / "model.safetensors").symlink_to(Path("../../blobs/abc"))
    (snapshot / "config.json").write_text('{"model_type": "llama"}')
    assert set(read_weights(snapshot)) == {"a"}
    assert open_base(snapshot).model_type == "llama"


@given(st.text(max_size=20))
def test_a_plain_name_stays_in_its_folder(name: str) -> None:
    if is_plain_name(name):
        folder = Path("/models/m")
        assert Path(os.path.normpath(folder / name)).parent == folder


@pytest.mark.parametrize("text", [
    '{"a": NaN}', '{"a": Infinity}', '{"a": [-Infinity]}', '{"a": 1e999}', '{"a": 1, "a": 2}', '{"a": {"b": 1, "b": 2}}',
    "[" * 100_000, '{"a":' * 40 + "1" + "}" * 40, '{"a": ' + "9" * 10_000 + "}", "\x00", "",
], ids=lambda text: text[:12])  # fmt: skip
def test_a_description_that_is_no_json_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_description(path)
    assert "\n" not in str(caught.value)


def test_a_description_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(MAX_DESCRIPTION * 100)  # a hole: nothing is written
    tracemalloc.start()
    with pytest.raises(InputError, match="is larger than 8,000,000 bytes"):
        read_description(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * MAX_DESCRIPTION


@pytest.mark.parametrize("config", [
    {"auto_map": {"AutoModel": "evil.Model"}}, {"model_file": "evil.py"}, {"text_config": {"auto_map": {"AutoConfig": "x.C"}}},
    {"layers": [{"model_file": "x"}]}, {"trust_remote_code": True}, {"a": {"b": {"trust_remote_code": "yes"}}},
], ids=str)  # fmt: skip
def test_code_in_a_config_is_refused_at_any_depth(config: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match="names code to run"):
        read_config(path)
    path.write_text('{"trust_remote_code": false, "auto_map": {}, "model_file": null, "model_type": "llama"}')
    assert read_config(path)["model_type"] == "llama"


class Bomb:
    """A pickle that leaves a mark when it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.safetensors", "adapters.safetensors"])
def test_a_pickle_under_any_name_is_not_opened(name: str, tmp_path: Path, base: BaseModel) -> None:
    mark, folder = tmp_path / "ran", tmp_path / "a"
    folder.mkdir()
    (folder / name).write_bytes(pickle.dumps(Bomb(mark)))
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "lora_parameters": {"rank": 4, "scale": 1.0}}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    for read in (lambda: read_adapter(folder), lambda: read_adapter(open_adapter(folder, base).folder)):
        with pytest.raises(InputError) as caught:
            read()
        assert "\n" not in str(caught.value)
    assert not mark.exists()
