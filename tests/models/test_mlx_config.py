"""What is known of mlx-lm's configs is held to mlx-lm itself."""

import dataclasses
import importlib
import inspect

import pytest

from whet.models.mlx_config import THETA


@pytest.mark.integration
@pytest.mark.parametrize("kind", THETA)
def test_the_rotation_is_what_mlx_lm_takes(kind: str) -> None:
    from mlx_lm.utils import MODEL_REMAPPING

    module = importlib.import_module(f"mlx_lm.models.{MODEL_REMAPPING.get(kind, kind)}")
    defaults = {field.name: field.default for field in dataclasses.fields(module.ModelArgs)}
    assert defaults["rope_theta"] == THETA[kind]
    assert "rope_parameters" not in inspect.getsource(module)
