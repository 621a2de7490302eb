"""Replies a second of whet's local engine against transformers generate, its generate_batch, and llama.cpp, for equal replies.

A specialist is trained briefly on the embedded base and asked for the offices in chunks of the histories, greedily, with an
instruction of about 700 tokens and with one line. `--model larger` asks a model of seven times the size that says the same
(extract_model.grow). Every system has the same weights in fp32, the same prompts and limits, and the same number of threads;
they take turns, whole rounds of them. Each is measured free, and kept to the JSON schema: whet by its JSON constraint,
transformers by outlines-core, llama.cpp by its grammar; whet's grounded constraint, which no peer has, stands beside.

Token ids must be equal. Where two replies first differ in ids whose logits are nearer than rounding goes, that is a tie, which is
counted apart; free replies that differ otherwise stop the benchmark. A constraint leaves several ways to write the same text:
replies of equal text are counted too. What all prompts share is computed anew by everyone in every round.

The last line is a JSON object: our replies a second over those of the peer's fastest setting, the smaller one of the ratios free
and kept to the schema; null where the peer is absent.
"""

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from extract_model import QUICK_STEPS, STEPS, grow, merge_adapter, train_adapter
from extract_peers import BEST, MANY, SEARCHED, Ids, Llama, Setting, Transformers
from workloads import DATA, LONG_INSTRUCTION, SHORT_INSTRUCTION

from whet.backends.base import Generated
from whet.backends.open import open_backend
from whet.engines.local import LocalEngine
from whet.extract.sentences import ENDS
from whet.models.base_model import open_base
from whet.records import Completion, Constraint, FieldRule, Message, Request
from whet.text.chat import Chat

INSTRUCTIONS = {"long": LONG_INSTRUCTION, "short": SHORT_INSTRUCTION}
FIELDS = (FieldRule("name", "span"), FieldRule("office", "span"))
CHUNK = 100  # characters at most: about as long as the sentences that the specialist learnt from
TIE = 2e-3  # nats by which two ids' logits may differ where rounding chooses between them


def read_chunks(data: Path) -> Iterator[str]:
    """Whole sentences of the histories, up to CHUNK characters, a chunk of each book in turn."""
    paths = sorted((data / "histories").glob("*.txt"))
    if not paths:
        raise SystemExit(f"{data}: holds no histories; name the folder of the corpora with --data")
    books = [_chunks(path) for path in paths]
    while books:
        for book in list(books):
            chunk = next(book, None)
            if chunk is None:
                books.remove(book)
            else:
                yield chunk


def _chunks(path: Path) -> Iterator[str]:
    text, chunk = path.read_text("utf-8"), ""
    for line in text[len(text) // 4 :].splitlines()[1:]:  # beginnings are tables of contents
        at = 0
        for found in [*ENDS.finditer(line.strip()), None]:
            end = found.end() if found else len(line.strip())
            sentence, at = line.strip()[at:end], end
            if chunk and len(chunk) + len(sentence) > CHUNK:
                yield chunk
                chunk = ""
            chunk += sentence if len(sentence) <= CHUNK else ""


class Whet:
    """whet's local engine; the ids of its replies are kept beside."""

    def __init__(self, folder: Path, max_tokens: int) -> None:
        base = open_base(folder)
        self.chat, self.max_tokens = Chat(base.folder), max_tokens
        self.backend: Any = open_backend(base)
        self.backend.attach(None)
        self.engine = _Recording("whet", self.backend, self.chat, base.max_length)

    def run(self, messages: Sequence[tuple[str, str]], kind: str) -> list[Ids]:
        """The reply to each instruction with its chunk."""
        rules = {"free": lambda _: None, "json": lambda _: Constraint(FIELDS), "grounded": partial(Constraint, FIELDS)}
        requests = [
            Request((Message("user", f"{instruction}\n\n{chunk}"),), self.max_tokens, constraint=rules[kind](chunk))
            for instruction, chunk in messages
        ]
        if self.backend.decoder is not None:
            self.backend.decoder.prefixes.clear()
        self.engine.ids.clear()
        for number, completion in self.engine.answer_each(requests):
            assert not completion.error, completion.error
            self.engine.ids[number] = self.engine.last
        return [self.engine.ids[number] for number in range(len(requests))]


class _Recording(LocalEngine):
    """Keeps the ids of the last reply, which a completion does not hold."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.ids: dict[int, Ids] = {}
        self.last: Ids = []

    def _completion(self, made: Generated, num_prompt: int) -> Completion:
        self.last = [*made.ids, *([self.chat.end_id] if made.is_ended else [])]
        return super()._completion(made, num_prompt)


@dataclass
class System:
    """One system in one setting, and what it gave in each round."""

    name: str
    owner: str
    """whet, generate, generate_batch or llama_cpp."""
    kind: str
    """free, json or grounded."""
    run: Callable[[], list[Ids]]
    clock: Callable[[], float] = process_time
    """CPU seconds that its process took so far."""
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    replies: list[Ids] = field(default_factory=list)

    def measure(self) -> None:
        began, cpu = perf_counter(), self.clock()
        self.replies = self.run()
        self.seconds.append(perf_counter() - began)
        self.cpu_seconds.append(self.clock() - cpu)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def systems(
    which: str, ours: Whet, theirs: Transformers, llama: Llama | None, chunks: Sequence[str], is_searched: bool
) -> list[System]:  # fmt: skip
    """Everyone who is asked with an instruction."""
    messages = [(INSTRUCTIONS[which], chunk) for chunk in chunks]
    prompts = [ours.chat.prompt_ids([Message("user", "\n\n".join(message))]) for message in messages]
    found = [System(f"whet, {kind}", "whet", kind, partial(ours.run, messages, kind)) for kind in ("free", "json", "grounded")]
    settings = list(SEARCHED if is_searched else BEST[which])
    settings += [Setting(each.batch, each.cache, True) for each in BEST[which]]
    for each in [*settings, Setting(0, "paged")]:
        owner = "generate_batch" if each.cache == "paged" else "generate"
        found.append(System(each.name, owner, "json" if each.is_constrained else "free", partial(theirs.run, prompts, each)))
    for most in MANY if llama else ():
        for kind in ("free", "json"):
            name = f"llama.cpp, {'one by one' if most == 1 else f'{most} at once'}{', grammar' if kind == 'json' else ''}"
            found.append(
                System(name, "llama_cpp", kind, partial(llama.run, prompts, most, kind == "json"), lambda: llama.cpu_seconds)
            )
    return found


@dataclass
class Same:
    """Replies of two systems held against each other."""

    equal: int = 0
    ties: int = 0
    same_text: int = 0
    cut: int = 0
    """The peer's breaks off at the limit, where whet's constraint closes the JSON."""
    other: int = 0

    def __str__(self) -> str:
        parts = [
            f"{self.equal} equal",
            f"{self.ties} ties",
            f"{self.same_text} of equal text",
            f"{self.cut} cut",
            f"{self.other} other",
        ]
        return ", ".join(part for part in parts if not part.startswith("0 "))


def hold(one: System, other: System, prompts: Sequence[Ids], theirs: Transformers) -> Same:
    """How far two systems' replies are the same."""
    same, decode = Same(), theirs.chat.tokenizer.decode
    for prompt, a, b in zip(prompts, one.replies, other.replies, strict=True):
        if a == b:
            same.equal += 1
        elif theirs.gap(prompt, a, b) < TIE:
            same.ties += 1
        elif decode(a) == decode(b):
            same.same_text += 1
        elif one.kind == "json" and len(b) == max(map(len, other.replies)) and not decode(b).endswith("]"):
            same.cut += 1
        else:
            same.other += 1
    return same


def show(which: str, tried: Sequence[System], prompts: Sequence[Ids], theirs: Transformers) -> dict[str, float | None]:
    """The table of an instruction; gives the ratios by peer."""
    ours = {system.kind: system for system in tried if system.owner == "whet"}
    num = len(prompts)
    mean = statistics.fmean(map(len, prompts))
    print(f"\n{which} instruction, {num} prompts of {mean:.0f} tokens. Seconds: least, median; least of all cores' CPU seconds")
    for system in tried:
        same = ""
        if system.owner != "whet":
            held = hold(ours[system.kind], system, prompts, theirs)
            same = f"to whet's: {held}"
            # llama.cpp keeps its caches in half precision as it comes: a reply in twenty may part from the others.
            if held.other > (num // 20 if system.owner == "llama_cpp" else 0) and system.kind == "free":
                raise SystemExit(f"{system.name}: {held.other} of its replies differ from whet's by more than rounding")
        tokens = sum(map(len, system.replies))
        rate, written = num / system.median, tokens / system.median
        print(
            f"  {system.name:<56} {min(system.seconds):7.2f} {system.median:7.2f} {min(system.cpu_seconds):7.2f} "
            f"{rate:8.2f} replies/s {written:8.0f} tokens/s {tokens:6} tokens  {same}",
            flush=True,
        )
    ratios: dict[str, float | None] = {}
    for owner in ("generate", "generate_batch", "llama_cpp"):
        found = []
        for kind, mine in (("free", "free"), ("json", "json")):
            if least := min((its.median for its in tried if its.owner == owner and its.kind == kind), default=None):
                found.append(least / ours[mine].median)
                cpu = min(min(its.cpu_seconds) for its in tried if its.owner == owner and its.kind == kind)
                of_cpu = cpu / min(ours[mine].cpu_seconds)
                print(f"  whet {mine} over {owner}'s best {kind}: {found[-1]:.2f} (of CPU seconds {of_cpu:.2f})")
        ratios[owner] = round(min(found), 2) if found else None
    return ratios


def measure(args: argparse.Namespace, place: Path) -> dict[str, dict[str, float | None]]:
    """Ratios by peer and instruction."""
    import torch

    torch.set_num_threads(args.threads)
    adapter = train_adapter(args.data, args.models or place, QUICK_STEPS if args.quick else STEPS)
    folder = merge_adapter(adapter, place / "merged")
    if args.model == "larger":
        folder = grow(folder, place / "larger")
    ours = Whet(folder, args.max_tokens)
    theirs = Transformers(folder, ours.chat, args.max_tokens, Constraint(FIELDS))
    llama = Llama.open(args, folder, place / "model.gguf", Constraint(FIELDS), ours.chat.end_id) if args.llama else None
    if llama is None:
        print("llama.cpp is not measured: name an interpreter that has llama_cpp with --llama")
    size = sum(p.numel() for p in theirs.model.parameters())
    print(f"{size / 1e6:.1f} M parameters in fp32, {args.threads} threads, replies of up to {args.max_tokens} tokens", flush=True)
    chunks = list(islice(read_chunks(args.data), args.replies))
    ratios: dict[str, dict[str, float | None]] = {}
    try:
        for which, instruction in INSTRUCTIONS.items():
            tried = systems(which, ours, theirs, llama, chunks, args.search)
            prompts = [ours.chat.prompt_ids([Message("user", f"{instruction}\n\n{chunk}")]) for chunk in chunks]
            for system in systems(which, ours, theirs, llama, chunks[:2], is_searched=False):
                system.run()  # what is opened late is no part of what is measured
            for _ in range(args.rounds):
                for system in tried:
                    system.measure()
                    print(f"  {which}: {system.name}: {system.seconds[-1]:.2f} s", flush=True)
            for owner, ratio in show(which, tried, prompts, theirs).items():
                ratios.setdefault(owner, {})[which] = ratio
    finally:
        if llama:
            llama.close()
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a shorter training and fewer rounds: within 5 minutes")
    parser.add_argument("--model", default="embedded", choices=["embedded", "larger"], help="the size that is measured")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the corpora")
    parser.add_argument("--models", type=Path, help="keep the trained adapter here, or take it from here")
    parser.add_argument("--llama", help="an interpreter that has llama_cpp")
    parser.add_argument("--search", action="store_true", help="measure every batch size and cache of generate")
    parser.add_argument("--replies", type=int, default=64, help="chunks that are asked about (64)")
    parser.add_argument("--rounds", type=int, help="rounds of all systems (5; 2 with --quick)")
    parser.add_argument("--max-tokens", type=int, default=96, help="most tokens of a reply")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of each system")
    args = parser.parse_args()
    args.rounds = args.rounds or (2 if args.quick else 5)
    with tempfile.TemporaryDirectory() as place:
        ratios = measure(args, Path(place))
    print(f"over generate_batch: {ratios['generate_batch']}")
    print(json.dumps({"ratio_vs_generate": ratios["generate"], "ratio_vs_llama_cpp": ratios["llama_cpp"]}))


if __name__ == "__main__":
    main()
