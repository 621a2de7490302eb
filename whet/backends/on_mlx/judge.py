"""Reads a model folder by mlx-lm, as a judge of exports for MLX."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model
from numpy.typing import NDArray

from whet.models.base_model import BaseModel
from whet.text.tokenizer import Tokenizer


class MlxJudge:
    """A model in plain mlx-lm."""

    def __init__(self, base: BaseModel) -> None:
        self.model: Any = load_model(base.folder)[0]
        self.tokenizer = Tokenizer(base.folder)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.tokenizer.encode(text) for text in texts]

    def logits(self, ids: Sequence[int], start: int) -> NDArray[np.float32]:
        found = self.model(mx.array([list(ids)]))[0, start:].astype(mx.float32)
        return np.asarray(found, np.float32)

    def continue_ids(self, ids: Sequence[int], max_tokens: int, end_ids: Sequence[int]) -> list[int]:
        cache, fed = make_prompt_cache(self.model), list(ids)
        made: list[int] = []
        while len(made) < max_tokens:
            made.append(int(mx.argmax(self.model(mx.array([fed]), cache=cache)[0, -1])))
            fed = made[-1:]
            if made[-1] in end_ids:
                break
        return made
