"""llama.cpp as a peer, run by an interpreter that has llama_cpp: jobs and answers are lines of JSON.

{"open": GGUF file, ...} loads a model; {"prompts": ids, ...} continues prompts greedily, either through the Python class that
users call, one after the other (it keeps what a prompt shares with the last one), or many at once through the C functions:
prompts share one copy of their common beginning, and whoever is done makes room for the next. This script opens nothing of
whet, for its interpreter need not have it.
"""

import json
import os
import sys
import time
from typing import Any

import llama_cpp
import numpy as np


class OneByOne:
    """The Python class `Llama`."""

    def __init__(self, path: str, context: int, threads: int) -> None:
        self.model = llama_cpp.Llama(path, n_ctx=context, n_threads=threads, n_threads_batch=threads, n_batch=1024, verbose=False)

    def run(self, prompts: list[list[int]], max_tokens: int, end: int, grammar: str | None) -> list[list[int]]:
        replies = []
        self.model.reset()
        for prompt in prompts:
            kept = llama_cpp.LlamaGrammar.from_string(grammar, verbose=False) if grammar else None
            reply: list[int] = []
            for token in self.model.generate(prompt, temp=0.0, repeat_penalty=1.0, grammar=kept):
                reply.append(token)
                if token == end or len(reply) == max_tokens:
                    break
            replies.append(reply)
        return replies


class AtOnce:
    """Many sequences in one context, by llama.cpp's own functions."""

    def __init__(self, path: str, most: int, places: int, threads: int) -> None:
        given = llama_cpp.llama_model_default_params()
        given.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), given)
        its = llama_cpp.llama_context_default_params()
        its.n_ctx, its.n_batch, its.n_ubatch, its.n_seq_max = places, 2048, 512, most + 1
        its.n_threads = its.n_threads_batch = threads
        its.kv_unified = True  # so that sequences share what they have in common
        self.context = llama_cpp.llama_init_from_model(self.model, its)
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        self.size = llama_cpp.llama_vocab_n_tokens(self.vocabulary)
        self.batch = llama_cpp.llama_batch_init(2048, 0, 1)
        self.most = most

    def run(self, prompts: list[list[int]], max_tokens: int, end: int, grammar: str | None) -> list[list[int]]:
        llama_cpp.llama_memory_clear(self.memory, True)
        low, high = min(prompts), max(prompts)
        shared = next((at for at, (x, y) in enumerate(zip(low, high, strict=False)) if x != y), min(len(low), len(high)))
        shared = min(shared, min(map(len, prompts)) - 1)
        self._decode([(0, token, at, False) for at, token in enumerate(low[:shared])])
        replies: list[list[int]] = [[] for _ in prompts]
        kept = [self._grammar(grammar) for _ in prompts]
        waiting, free = list(range(len(prompts)))[::-1], list(range(1, self.most + 1))
        live: dict[int, int] = {}  # sequence to number of its prompt
        while waiting or live:
            entries: list[tuple[int, int, int, bool]] = []
            for sequence, number in live.items():
                place = len(prompts[number]) + len(replies[number]) - 1
                entries.append((sequence, replies[number][-1], place, True))
            while waiting and free and len(entries) + len(prompts[waiting[-1]]) - shared <= 2048:
                number, sequence = waiting.pop(), free.pop()
                llama_cpp.llama_memory_seq_cp(self.memory, 0, sequence, 0, shared)
                rest = prompts[number][shared:]
                entries += [(sequence, token, shared + at, at == len(rest) - 1) for at, token in enumerate(rest)]
                live[sequence] = number
            self._decode(entries)
            for column, (sequence, _, _, is_last) in enumerate(entries):
                if not is_last:
                    continue
                number = live[sequence]
                token = self._next(column, kept[number])
                replies[number].append(token)
                if token == end or len(replies[number]) == max_tokens:
                    llama_cpp.llama_memory_seq_rm(self.memory, sequence, -1, -1)
                    free.append(sequence)
                    del live[sequence]
        for sampler in kept:
            if sampler is not None:
                llama_cpp.llama_sampler_free(sampler)
        return replies

    def _decode(self, entries: list[tuple[int, int, int, bool]]) -> None:
        if not entries:
            return
        batch = self.batch
        batch.n_tokens = len(entries)
        for at, (sequence, token, place, is_wanted) in enumerate(entries):
            batch.token[at], batch.pos[at], batch.n_seq_id[at] = token, place, 1
            batch.seq_id[at][0], batch.logits[at] = sequence, is_wanted
        if (code := llama_cpp.llama_decode(self.context, batch)) != 0:
            raise SystemExit(f"llama_decode gave {code}")

    def _grammar(self, grammar: str | None) -> Any:
        return llama_cpp.llama_sampler_init_grammar(self.vocabulary, grammar.encode(), b"root") if grammar else None

    def _next(self, column: int, grammar: Any) -> int:
        """The likeliest token; the grammar looks at all only where it forbids that one, as in llama.cpp's server."""
        found = llama_cpp.llama_get_logits_ith(self.context, column)
        logits = np.ctypeslib.as_array(found, (self.size,))
        token = int(logits.argmax())
        if grammar is None:
            return token
        if not self._allowed(grammar, np.array([token]), logits)[0]:
            numbers = np.arange(self.size)
            allowed = self._allowed(grammar, numbers, logits)
            token = int(np.where(allowed, logits, -np.inf).argmax())
        llama_cpp.llama_sampler_accept(grammar, token)
        return token

    @staticmethod
    def _allowed(grammar: Any, numbers: np.ndarray, logits: np.ndarray) -> np.ndarray:
        import ctypes

        rows = np.zeros(len(numbers), np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)]))
        rows["id"], rows["logit"] = numbers, logits[numbers]
        data = rows.ctypes.data_as(llama_cpp.llama_token_data_p)
        array = llama_cpp.llama_token_data_array(data=data, size=len(rows), selected=-1, sorted=False)
        llama_cpp.llama_sampler_apply(grammar, ctypes.byref(array))
        return np.isfinite(rows["logit"])


def main() -> None:
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the library prints too
    print(json.dumps({"version": llama_cpp.__version__}), file=said, flush=True)
    peers: dict[int, OneByOne | AtOnce] = {}
    for line in sys.stdin:
        job = json.loads(line)
        answer: dict[str, Any] = {}
        if "open" in job:
            most = job["most"]
            if most == 1:
                peers[most] = OneByOne(job["open"], job["context"], job["threads"])
            else:
                peers[most] = AtOnce(job["open"], most, job["places"], job["threads"])
        else:
            began = time.process_time()
            answer["replies"] = peers[job["most"]].run(job["prompts"], job["max_tokens"], job["end"], job["grammar"])
            answer["cpu_seconds"] = time.process_time() - began
        print(json.dumps(answer), file=said, flush=True)


if __name__ == "__main__":
    main()
