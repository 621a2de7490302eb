"""Traps planted in adapters' GGUF files as llama.cpp's converter writes them; healthy ones are quiet."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from converted_gguf import Pair, Turn, adapter_file, not_at_all, on_a, write_pair
from found import alarms, named

from whet.doctor.look import diagnose
from whet.export.gguf_adapter import write_gguf_adapter
from whet.models.base_model import open_base
from whet.models.lora import read_lora

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def llama_pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("has_base", [True, False])
def test_a_converted_adapter_is_quiet_beside_its_folder(dtype: Any, has_base: bool, llama_pair: Pair, tmp_path: Path) -> None:
    base, folder = llama_pair
    path = adapter_file(tmp_path / "a.gguf", folder, 80.0, dtype=dtype)
    assert not alarms(diagnose([folder, path], base if has_base else None))
    own = write_gguf_adapter(open_base(base), read_lora(folder), tmp_path / "own.gguf").path
    assert not alarms(diagnose([folder, own], base if has_base else None))


@pytest.mark.parametrize("has_base", [True, False])
def test_an_adapter_at_strength_one_is_told_with_both_strengths(has_base: bool, llama_pair: Pair, tmp_path: Path) -> None:
    base, folder = llama_pair
    found = diagnose([folder, adapter_file(tmp_path / "a.gguf", folder, 4.0)], base if has_base else None)
    finding = named(found, "an adapter at another strength")
    assert finding.severity == "error"
    assert "4 of 4 layers run at strength 1 instead of 20" in finding.what


def test_an_adapter_without_strength_is_an_error_by_itself(llama_pair: Pair, tmp_path: Path) -> None:
    path = adapter_file(tmp_path / "a.gguf", llama_pair[1], None)
    assert named(diagnose([path]), "an adapter without strength").severity == "error"
    assert "strength 1 instead of 20" in named(diagnose([llama_pair[1], path]), "an adapter at another strength").what
    assert not alarms(diagnose([adapter_file(tmp_path / "b.gguf", llama_pair[1], 80.0)]))


@pytest.mark.parametrize("turn", [on_a, not_at_all])
def test_rows_that_are_turned_in_the_wrong_matrix_are_found(turn: Turn, llama_pair: Pair, tmp_path: Path) -> None:
    base, folder = llama_pair
    finding = named(
        diagnose([folder, adapter_file(tmp_path / "a.gguf", folder, 80.0, turn)], base), "an adapter that was changed on the way"
    )
    assert finding.severity == "error"
    assert "2 of 4 layers" in finding.what
    assert "attn_q" in finding.what


def test_layers_that_a_conversion_left_out_are_counted(llama_pair: Pair, tmp_path: Path) -> None:
    base, folder = llama_pair
    finding = named(
        diagnose([folder, adapter_file(tmp_path / "a.gguf", folder, 80.0, layers=(0,))], base), "layers that were left out"
    )
    assert "it changes 2 layers" in finding.what
