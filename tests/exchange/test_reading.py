"""Settings files of any kind: read, or refused in one line; nothing in them runs, nothing grows without bound."""

import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.errors import WhetError
from whet.exchange.convert import import_settings
from whet.exchange.reading import read_settings

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


class Runs:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return Path.write_text, (self.path, "it ran")


def refused(path: Path) -> str:
    with pytest.raises(WhetError) as caught:
        import_settings(path)
    words = str(caught.value)
    assert len(words.splitlines()) == 1
    assert words.startswith(str(path))
    return words


@pytest.mark.parametrize("name", ["training_args.bin", "settings.yaml", "adapter_config.json", "train.py"])
def test_a_pickle_is_refused_whatever_its_name(tmp_path: Path, name: str) -> None:
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / name).write_bytes(pickle.dumps(Runs(tmp_path / "ran"), protocol))
        assert "is a pickle, which can run code" in refused(tmp_path / name)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Runs(tmp_path / "ran")))
    (tmp_path / name).write_bytes(packed.getvalue())
    assert "does not open it" in refused(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_archives_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "settings.yaml", "w") as archive:
        entry = tarfile.TarInfo("../../outside")
        entry.size = 4
        archive.addfile(entry, io.BytesIO(b"data"))
    assert "archive" in refused(tmp_path / "settings.yaml")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.yaml", BOMB, "YAML alias"),
        ("a.yaml", "iters: !!python/object/apply:os.system ['touch ran']", "could not determine a constructor"),
        ("a.yaml", "iters: 1\niters: 2", "given twice"),
        ("a.yaml", "iters: " + "[" * 50_000, "nested more than 64 levels"),
        ("a.yaml", "iters: " + "[" * 60 + "]" * 60, "nested more than 32 levels"),
        ("a.yaml", "", "holds nothing"),
        ("a.yaml", "1: 2", "key that is no text"),
        ("a.yaml", "x" * 256_001, "larger than 256 kB"),
        ("a.json", '{"iters": 1, "iters": 2}', "given twice"),
        ("a.json", '{"iters": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ("a.json", "[1]", "no object of settings"),
        ("a.json", '{"iters": ' + "9" * 10_000 + "}", "a number too long"),
        ("a.json", '{"iters": NaN, "num_layers": 2}', "a whole number is needed"),
        ("a.json", '{"iters": 1,}', "not JSON"),
        ("a.json", '{"iters": "\x00"}', "no text file"),
        ("a.py", "import os\nos.system('touch ran')", "none of the calls"),
        ("a.py", "x = " + "(" * 250 + ")" * 250, "no Python"),
        ("a.py", "x = " + "-" * 50_000 + "1", "no Python"),
        ("a.py", "x" + ".x" * 50_000, "no Python"),
        ("a.py", "1 +" * 60_000 + " 1", "no Python"),
        ("a.py", "x = 1\n" * 40_000, "characters"),
    ],
)
def test_hostile_text_is_refused_in_one_line(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    assert words in refused(tmp_path / name)
    assert not Path("ran").exists()


@pytest.mark.parametrize("value", ["x\nname: evil", "x\r# y", "x\u2028name: evil", "x\x85y: z", "*a &b !!c", "x\n\nbase: evil"])
def test_no_value_can_break_out_of_a_comment(tmp_path: Path, value: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"iters": 10, "num_layers": 2, value: value, "model": value, "val_batches": value}))
    found = import_settings(path)
    assert found.raw["base"] == value
    assert found.raw["name"] == "a"


KEYS = st.sampled_from(
    ["iters", "lora_parameters", "base_model", "datasets", "r", "peft_type", "stage", "max_length", "x", "lr_schedule"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(KEYS, VALUES, max_size=8))
def test_any_json_is_read_or_refused_in_our_words(tmp_path_factory: pytest.TempPathFactory, values: dict[str, object]) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "a.json"
    path.write_text(json.dumps(values))
    try:
        import_settings(path)
    except WhetError as error:
        assert str(error)


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass"))),
       st.sampled_from(["a.yaml", "a.json", "a.py", "a.bin"]))  # fmt: skip
def test_any_bytes_are_read_or_refused_in_our_words(tmp_path_factory: pytest.TempPathFactory, raw: bytes, name: str) -> None:
    path = tmp_path_factory.mktemp("fuzz") / name
    path.write_bytes(raw)
    try:
        read_settings(path)
    except WhetError as error:
        assert str(error).startswith(str(path))
