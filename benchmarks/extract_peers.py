"""The peers of the extraction benchmark: transformers generate with its caches and a constraint, generate_batch, llama.cpp."""

import argparse
import copy
import json
import subprocess
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.engines.grammars import gbnf, json_schema
from whet.export.gguf_write import write_gguf
from whet.models.base_model import open_base
from whet.records import Constraint
from whet.text.chat import Chat

Ids = list[int]
LLAMA = Path(__file__).with_name("extract_llama.py")
MANY = (1, 16)  # prompts at once that llama.cpp is asked


@dataclass(frozen=True)
class Setting:
    """How transformers is asked."""

    batch: int
    cache: str = "dynamic"
    """dynamic, static, prefix (a dynamic cache that begins with what all prompts share, computed once), or paged
    (continuous batching)."""
    is_constrained: bool = False
    """Whether outlines-core keeps the replies to the JSON schema."""

    @property
    def name(self) -> str:
        kind = "generate_batch" if self.cache == "paged" else f"generate, batches of {self.batch}, {self.cache} cache"
        return kind + (", outlines-core" if self.is_constrained else "")


SEARCHED = [Setting(batch, cache) for batch in (1, 4, 8, 16, 32) for cache in ("dynamic", "static", "prefix")]
# Measured without --search, by instruction: what --search found to be the fastest for 64 replies.
BEST = {
    "long": [Setting(8, "prefix"), Setting(32, "prefix")],
    "short": [Setting(32, "prefix"), Setting(32, "dynamic")],
}


class Transformers:
    """A model folder, asked through transformers."""

    def __init__(self, folder: Path, chat: Chat, max_tokens: int, constraint: Constraint) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.model: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32, local_files_only=True).eval()
        self.chat, self.max_tokens = chat, max_tokens
        self.constraint = constraint
        self._index: Any = None

    def run(self, prompts: Sequence[Ids], setting: Setting) -> list[Ids]:
        """The greedy continuation of each prompt, its end id included."""
        import torch

        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if setting.cache == "paged":
                return self._run_paged(prompts)
            shared = num_shared(prompts) if setting.cache == "prefix" else 0
            before = self.model(torch.tensor([prompts[0][:shared]]), use_cache=True).past_key_values if shared else None
            # Prompts of like length together: less padding.
            order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
            replies: list[Ids] = [[] for _ in prompts]
            for first in range(0, len(order), setting.batch):
                numbers = order[first : first + setting.batch]
                made = self._run_batch([prompts[number] for number in numbers], setting, shared, before)
                for number, reply in zip(numbers, made, strict=True):
                    replies[number] = reply
            return replies

    def _run_batch(self, prompts: Sequence[Ids], setting: Setting, shared: int, before: Any) -> list[Ids]:
        import torch

        end = self.chat.end_id
        width = max(map(len, prompts))
        # The padding stands behind what all share, where there is such a cache.
        rows = [[*prompt[:shared], *[0] * (width - len(prompt)), *prompt[shared:]] for prompt in prompts]
        mask = [[1] * shared + [0] * (width - len(prompt)) + [1] * (len(prompt) - shared) for prompt in prompts]
        more: dict[str, Any] = {}
        if before is not None:
            more["past_key_values"] = copy.deepcopy(before)
            more["past_key_values"].batch_repeat_interleave(len(prompts))
        elif setting.cache == "static":
            more["cache_implementation"] = "static"
        if setting.is_constrained:
            more["logits_processor"] = [self._outlines(len(prompts), width)]
        ids = torch.tensor(rows)
        made = self.model.generate(
            input_ids=ids, attention_mask=torch.tensor(mask), do_sample=False, max_new_tokens=self.max_tokens,
            eos_token_id=end, pad_token_id=0, **more,
        )  # fmt: skip
        return [until_end(row, end) for row in made[:, width:].tolist()]

    def _run_paged(self, prompts: Sequence[Ids]) -> list[Ids]:
        from transformers import ContinuousBatchingConfig, GenerationConfig

        config = GenerationConfig(do_sample=False, max_new_tokens=self.max_tokens, eos_token_id=self.chat.end_id, pad_token_id=0)
        places = ContinuousBatchingConfig(page_size=32, num_blocks=1024, max_batch_tokens=2048)
        try:
            made = self.model.generate_batch(
                [list(prompt) for prompt in prompts], generation_config=config, continuous_batching_config=places
            )
        finally:
            self.model.set_attn_implementation("sdpa")
        found = {tuple(out.prompt_ids): until_end(out.generated_tokens, self.chat.end_id) for out in made.values()}
        return [found[tuple(prompt)] for prompt in prompts]

    def _outlines(self, num: int, width: int) -> Any:
        """A processor of logits for a batch; the automaton of the schema is made once."""
        from outlines_core import Guide

        if self._index is None:
            self._index = make_index(self.chat, self.constraint)
        return _Kept([Guide(self._index) for _ in range(num)], width)

    def gap(self, prompt: Ids, reply: Ids, other: Ids) -> float:
        """By how many nats the ids that two replies first differ in lie apart."""
        import torch

        at = next(at for at, (x, y) in enumerate(zip(reply, other, strict=False)) if x != y)
        with torch.no_grad():
            logits = self.model(torch.tensor([[*prompt, *reply[:at]]])).logits[0, -1]
        return abs(float(logits[reply[at]] - logits[other[at]]))


def make_index(chat: Chat, constraint: Constraint) -> Any:
    """The automaton of the constraint's JSON schema, without white space, over the tokenizer's ids."""
    from outlines_core import Index, Vocabulary
    from outlines_core import json_schema as schemas

    pieces: dict[bytes, list[int]] = {}
    for number, piece in enumerate(chat.tokenizer.token_bytes()):
        if piece and number != chat.end_id:
            pieces.setdefault(piece, []).append(number)
    regex = schemas.build_regex_from_schema(json.dumps(json_schema(constraint)), "")
    return Index(regex, Vocabulary(chat.end_id, pieces))


class _Kept:
    """Sets what each row's guide forbids to minus infinity."""

    def __init__(self, guides: Sequence[Any], width: int) -> None:
        from outlines_core.kernels.torch import allocate_token_bitmask

        self.guides, self.width = guides, width
        self.allocate = allocate_token_bitmask
        self.mask: Any = None

    def __call__(self, ids: Any, scores: Any) -> Any:
        import torch

        if self.mask is None:
            self.mask = self.allocate(scores.shape[1])
            self.bits = torch.arange(32, dtype=torch.int32)
        else:
            for guide, token in zip(self.guides, ids[:, -1].tolist(), strict=True):
                if not guide.is_finished():
                    guide.advance(token, return_tokens=False)
        for row, guide in enumerate(self.guides):
            if guide.is_finished():
                continue
            self.mask.zero_()
            guide.write_mask_into(self.mask.data_ptr(), self.mask.numel(), self.mask.element_size())
            is_allowed = (self.mask[0, :, None] >> self.bits & 1).bool().flatten()[: scores.shape[1]]
            scores[row].masked_fill_(~is_allowed, -torch.inf)
        return scores


def num_shared(prompts: Sequence[Ids]) -> int:
    """Tokens that all prompts begin with; the last one of a prompt is never among them."""
    low, high = min(prompts), max(prompts)
    common = next((at for at, (x, y) in enumerate(zip(low, high, strict=False)) if x != y), min(len(low), len(high)))
    return min(common, min(map(len, prompts)) - 1)


def until_end(ids: Sequence[int], end: int) -> Ids:
    """Ids up to the end id and with it."""
    return list(ids[: ids.index(end) + 1]) if end in ids else list(ids)


class Llama:
    """llama.cpp in an interpreter of its own."""

    def __init__(self, process: "subprocess.Popen[str]", path: Path, grammar: str, end: int, args: argparse.Namespace) -> None:
        self.process, self.path, self.grammar, self.end, self.args = process, path, grammar, end, args
        self.cpu_seconds = 0.0  # of all that it was asked

    @classmethod
    def open(cls, args: argparse.Namespace, folder: Path, path: Path, constraint: Constraint, end: int) -> "Llama | None":
        """The peer with the model folder as GGUF; None where the interpreter lacks it."""
        try:
            process = subprocess.Popen(
                [args.llama, str(LLAMA)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        except OSError as error:
            print(f"--llama: {error}")
            return None
        assert process.stdout and process.stderr
        first = process.stdout.readline()
        if not first:
            print(f"--llama: {process.stderr.read().strip().splitlines()[-1]}")
            return None
        threading.Thread(target=process.stderr.read, daemon=True).start()
        print(f"llama-cpp-python {json.loads(first)['version']}")
        peer = cls(process, path, gbnf(constraint), end, args)
        write_gguf(open_base(folder), path, "f32")
        for most in MANY:
            peer.ask({"open": str(path), "most": most, "context": 2048, "places": 32_768, "threads": args.threads})
        return peer

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"llama.cpp's process ended with {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def run(self, prompts: Sequence[Ids], most: int, is_constrained: bool) -> list[Ids]:
        """The greedy continuation of each prompt, so many at once."""
        given = {"prompts": prompts, "most": most, "max_tokens": self.args.max_tokens, "end": self.end}
        answer = self.ask(given | {"grammar": self.grammar if is_constrained else None})
        self.cpu_seconds += answer["cpu_seconds"]
        replies: list[Ids] = answer["replies"]
        return replies

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()
