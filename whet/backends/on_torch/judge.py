"""Reads a model folder, with or without an adapter, in fp32 by plain transformers: the reference that exports are held to."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from whet.backends.on_torch.adapters import load_adapter, load_full
from whet.backends.on_torch.load import load_model
from whet.models.adapter import Adapter
from whet.models.base_model import BaseModel
from whet.text.tokenizer import Tokenizer


class TransformersJudge:
    """A model in plain transformers and PEFT: no packing, no kernels of whet's."""

    def __init__(self, base: BaseModel, adapter: Adapter | None = None) -> None:
        cpu = torch.device("cpu")
        if adapter is not None and adapter.kind == "full":
            self.model: Any = load_full(base, adapter.folder, torch.float32, cpu)
        else:
            self.model = load_model(base, torch.float32, cpu)
        if adapter is not None and adapter.kind == "lora":
            with warnings.catch_warnings():
                # A base that was moved since the training; which base it is was checked by its fingerprint.
                warnings.filterwarnings("ignore", message="The PEFT config's `base_model_name_or_path` was renamed")
                self.model = load_adapter(self.model, adapter.folder)
        self.model.eval()
        self.tokenizer = Tokenizer(base.folder)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.tokenizer.encode(text) for text in texts]

    def logits(self, ids: Sequence[int], start: int) -> NDArray[np.float32]:
        with torch.inference_mode():
            found = self.model(torch.tensor([list(ids)]), logits_to_keep=len(ids) - start).logits[0]
        return np.asarray(found.float().numpy(), np.float32)

    def continue_ids(self, ids: Sequence[int], max_tokens: int, end_ids: Sequence[int]) -> list[int]:
        made: list[int] = []
        cache, fed = None, list(ids)
        with torch.inference_mode():
            while len(made) < max_tokens:
                out = self.model(torch.tensor([fed]), past_key_values=cache, use_cache=True, logits_to_keep=1)
                made.append(int(out.logits[0, -1].argmax()))
                cache, fed = out.past_key_values, made[-1:]
                if made[-1] in end_ids:
                    break
        return made
