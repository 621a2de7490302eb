"""Runs llama.cpp in a process of its own: jobs as JSON lines on standard input, answers as JSON lines on standard output.

Stands alone: the interpreter that runs it needs llama-cpp-python and numpy, not whet.
"""

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np


class Model:
    """A GGUF file in llama.cpp's hands, with or without an adapter."""

    def __init__(self, llama: Any, path: str, adapter: str | None, num_context: int) -> None:
        self.llama = llama
        settings = llama.llama_model_default_params()
        settings.n_gpu_layers = 0
        # Repacked weights crash on processors with AMX (llama-cpp-python 0.3.36), and round otherwise than the file says.
        settings.use_extra_bufts = False
        self.model = llama.llama_model_load_from_file(path.encode(), settings)
        if not self.model:
            raise ValueError(f"llama.cpp does not load {path}")
        context = llama.llama_context_default_params()
        context.n_ctx = context.n_batch = context.n_ubatch = num_context
        context.n_threads = context.n_threads_batch = int(os.environ.get("OMP_NUM_THREADS", "0") or 0) or (os.cpu_count() or 1)
        context.type_k = context.type_v = 0  # f32: what is judged is the file, not the cache
        context.flash_attn_type = 0
        self.context = llama.llama_init_from_model(self.model, context)
        if not self.context:
            raise ValueError(f"llama.cpp opens no context of {num_context} tokens for {path}")
        self.vocab = llama.llama_model_get_vocab(self.model)
        self.num_vocab = llama.llama_vocab_n_tokens(self.vocab)
        if adapter:
            loaded = llama.llama_adapter_lora_init(self.model, adapter.encode())
            if not loaded:
                raise ValueError(f"llama.cpp does not load the adapter {adapter}")
            adapters = (llama.llama_adapter_lora_p_ctypes * 1)(loaded)
            if llama.llama_set_adapters_lora(self.context, adapters, 1, (ctypes.c_float * 1)(1.0)):
                raise ValueError(f"llama.cpp does not apply the adapter {adapter}")

    def close(self) -> None:
        """Give the memory back, the adapter's included."""
        self.llama.llama_free(self.context)
        self.llama.llama_model_free(self.model)

    def tokenize(self, text: str) -> list[int]:
        raw = text.encode()
        room = len(raw) + 8
        ids = (self.llama.llama_token * room)()
        num = self.llama.llama_tokenize(self.vocab, raw, len(raw), ids, room, False, True)
        if num < 0:
            raise ValueError("llama.cpp gives more tokens than bytes")
        return list(ids[:num])

    def evaluate(self, ids: list[int], past: int, start: int) -> Any:
        """Logits behind the ids from number `start` on, the first id standing at position `past`."""
        batch = self.llama.llama_batch_init(len(ids), 0, 1)
        try:
            batch.n_tokens = len(ids)
            for at, token in enumerate(ids):
                batch.token[at], batch.pos[at] = token, past + at
                batch.n_seq_id[at], batch.seq_id[at][0] = 1, 0
                batch.logits[at] = at >= start
            if code := self.llama.llama_decode(self.context, batch):
                raise ValueError(f"llama.cpp computes no logits (code {code})")
            rows = [
                np.ctypeslib.as_array(self.llama.llama_get_logits_ith(self.context, at), (self.num_vocab,)).copy()
                for at in range(start, len(ids))
            ]
        finally:
            self.llama.llama_batch_free(batch)
        return np.stack(rows)

    def forget(self) -> None:
        self.llama.llama_memory_clear(self.llama.llama_get_memory(self.context), True)

    def logits(self, ids: list[int], start: int) -> Any:
        self.forget()
        return self.evaluate(ids, 0, start)

    def continue_ids(self, ids: list[int], max_tokens: int, end_ids: list[int]) -> list[int]:
        self.forget()
        made: list[int] = []
        logits = self.evaluate(ids, 0, len(ids) - 1)[-1]
        while len(made) < max_tokens:
            made.append(int(logits.argmax()))
            if made[-1] in end_ids or len(made) == max_tokens:
                break
            logits = self.evaluate(made[-1:], len(ids) + len(made) - 1, 0)[-1]
        return made


def quantize(llama: Any, source: str, target: str, kind: str, importance: str | None) -> None:
    """Write `target` from `source` in the type that llama.cpp calls `kind`; importance: an .npz of mean squares by tensor."""
    settings = llama.llama_model_quantize_default_params()
    settings.ftype = getattr(llama, f"LLAMA_FTYPE_MOSTLY_{kind}")
    settings.nthread = int(os.environ.get("OMP_NUM_THREADS", "0") or 0)
    settings.allow_requantize = False
    kept = []
    if importance:
        item = type(settings.imatrix)._type_
        with np.load(importance, allow_pickle=False) as stored:
            kept = [(name.encode(), np.ascontiguousarray(stored[name], np.float32)) for name in stored.files]
        table = (item * (len(kept) + 1))()  # the last one, without a name, ends it
        for entry, (name, values) in zip(table, kept, strict=False):
            entry.name = name
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            entry.size = values.size
        settings.imatrix = ctypes.cast(table, type(settings.imatrix))
    if code := llama.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(settings)):
        raise ValueError(f"llama.cpp does not quantise (code {code})")


def main() -> None:
    """Answer jobs until standard input ends."""
    import llama_cpp as llama

    said: list[str] = []

    def listen(level: int, text: bytes, _: Any) -> None:
        if level in (3, 4):  # warnings and errors: the last ones tell why a job failed
            said.append(text.decode("utf-8", "replace").strip())
            del said[:-3]

    callback = llama.llama_log_callback(listen)
    llama.llama_log_set(callback, None)
    llama.llama_backend_init()
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what native code prints must not stand between the answers
    model: Model | None = None
    for line in sys.stdin:
        job = json.loads(line)
        answer: dict[str, Any] = {}
        try:
            if job["do"] == "open":
                if model:
                    model.close()
                model = None
                model = Model(llama, job["path"], job["adapter"], job["num_context"])
                answer["num_vocab"] = model.num_vocab
            elif job["do"] == "quantize":
                quantize(llama, job["source"], job["target"], job["kind"], job["importance"])
            elif job["do"] == "hello":
                answer["version"] = llama.__version__
            else:
                assert model is not None
                if job["do"] == "tokenize":
                    answer["ids"] = [model.tokenize(text) for text in job["texts"]]
                elif job["do"] == "logits":
                    np.save(Path(job["to"]), model.logits(job["ids"], job["start"]))
                else:
                    answer["ids"] = model.continue_ids(job["ids"], job["max_tokens"], job["end_ids"])
        except (ValueError, AttributeError, OSError) as error:
            answer["error"] = "; ".join([str(error), *said])
        out.write(json.dumps(answer) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
