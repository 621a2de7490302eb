"""The rows that the training benchmarks train: four workloads of prompts and answers, as token ids."""

import json
import random
import re
import shutil
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from whet.models.base_model import EMBEDDED_PATH
from whet.records import Message
from whet.text.chat import Chat
from whet.train.encode import Row

DATA = Path(__file__).resolve().parents[2] / "shared/data"
LONG_INSTRUCTION = (Path(__file__).parent / "ming_instruction.txt").read_text("utf-8").strip()
SHORT_INSTRUCTION = "从史文中提取任职关系，输出 JSON List，没有则输出 []。"
CHUNK = 900  # characters of a long chunk
WORKLOADS = {
    "a": "a long instruction of about 700 tokens, then one sentence of CHisIEC",
    "b": "a one-line instruction, then one sentence of CHisIEC",
    "c": "GSM8K: question and worked answer, nothing shared but the chat template",
    "d": "a one-line instruction, then a chunk of about 900 characters of CHisIEC",
}
GSM8K_VOCABULARY = 8192
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@dataclass(frozen=True, slots=True)
class Workload:
    """Rows to train and rows held out, and where they came from."""

    name: str
    source: str
    train: tuple[Row, ...]
    held_out: tuple[Row, ...]

    def describe(self) -> str:
        """Means over the rows, in tokens."""
        prompt = statistics.fmean(len(row.prompt_ids) for row in self.train)
        answer = statistics.fmean(len(row.answer_ids) for row in self.train)
        longest = max(row.num_tokens for row in self.train)
        shared = shared_length(self.train)
        return (
            f"({self.name}) {WORKLOADS[self.name]}: {len(self.train)} rows, prompt {prompt:.0f} tokens (the first {shared} "
            f"shared by all), answer {answer:.0f}, longest row {longest}; {self.source}"
        )


def shared_length(rows: Sequence[Row]) -> int:
    """Tokens that all rows' prompts begin with."""
    least, most = min(row.prompt_ids for row in rows), max(row.prompt_ids for row in rows)
    return next((at for at, (x, y) in enumerate(zip(least, most, strict=False)) if x != y), min(len(least), len(most)))


def make_workload(name: str, num_train: int, num_held_out: int, data: Path, folder: Path, seed: int = 0) -> Workload:
    """Rows of a workload, each once where the corpus has that many. `folder` takes a tokenizer that has to be trained."""
    random_ = random.Random(f"{name}{seed}")
    texts = list(_gsm8k(data) if name == "c" else _chisiec(data))
    source = f"from {data}" if texts else "whet's own generated annals: THE CORPUS WAS NOT FOUND, see --data"
    if not texts:
        texts = list(_annals(4000))
    num = num_train + num_held_out
    drawn = _chunks(texts, num, random_) if name == "d" else _drawn(texts, num, random_)
    chat = Chat(_gsm8k_tokenizer(texts, folder) if name == "c" else EMBEDDED_PATH)
    rows = [_row(f"{name}{number}", name, text, reply, chat) for number, (text, reply) in enumerate(drawn)]
    return Workload(name, source, tuple(rows[:num_train]), tuple(rows[num_train:]))


def _row(number: str, workload: str, text: str, reply: str, chat: Chat) -> Row:
    instruction = {"a": LONG_INSTRUCTION, "c": ""}.get(workload, SHORT_INSTRUCTION)
    asked = f"{instruction}\n\n{text}" if instruction else text
    rendered = chat.training_ids([Message("user", asked)], reply)
    return Row(number, "benchmark", rendered.prompt_ids, rendered.answer_ids, rendered.is_merged)


def _drawn(texts: list[tuple[str, str]], num: int, random_: random.Random) -> list[tuple[str, str]]:
    """`num` of the texts in an order of their own; all of them again and again where there are too few."""
    drawn: list[tuple[str, str]] = []
    while len(drawn) < num:
        drawn += random_.sample(texts, k=len(texts))
    return drawn[:num]


def _chunks(texts: list[tuple[str, str]], num: int, random_: random.Random) -> list[tuple[str, str]]:
    """Texts joined to about CHUNK characters, with all that is to be found in them."""
    chunks: list[tuple[str, str]] = []
    while len(chunks) < num:
        text, found = "", []
        for sentence, reply in random_.sample(texts, k=len(texts)):
            if text and len(text) + len(sentence) > CHUNK:
                chunks.append((text, _reply(found)))
                text, found = "", []
            text += sentence
            found += json.loads(reply)
    return chunks[:num]


def _reply(found: Sequence[dict[str, str]]) -> str:
    return json.dumps(found, ensure_ascii=False, separators=(",", ":"))


def _chisiec(data: Path) -> Iterator[tuple[str, str]]:
    """Sentences and who holds which office in them; the spans are cut from the text, whose script the labels do not keep."""
    path = data / "chisiec/re/train.json"
    if not path.is_file():
        return
    for row in json.loads(path.read_text("utf-8")):
        text, entities = row["tokens"], row["entities"]
        spans = [text[entity["start"] : entity["end"]] for entity in entities]
        held = [(relation["head"], relation["tail"]) for relation in row["relations"] if relation["type"] == "任职"]
        yield text, _reply([{"name": spans[head], "office": spans[tail]} for head, tail in held])


def _gsm8k(data: Path) -> Iterator[tuple[str, str]]:
    path = data / "gsm8k/train.jsonl"
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            yield row["question"].strip(), row["answer"].strip()


def _annals(num: int) -> Iterator[tuple[str, str]]:
    from whet.data.annals.write import sample

    pair = re.compile(r"(?:<O>(?P<office>[^<]*)</O>)?<P[^>]*>(?P<name>[^<]*)</P>")
    for tagged in sample(0, num):
        found = [{"name": match["name"], "office": match["office"] or ""} for match in pair.finditer(tagged)]
        yield re.sub(r"<[^>]*>", "", tagged), _reply(found)


def _gsm8k_tokenizer(texts: Sequence[tuple[str, str]], folder: Path) -> Path:
    """A byte-level BPE trained on the workload's own text: the embedded base's vocabulary spells English by the letter."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    words = Regex(r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=GSM8K_VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((part for text in texts for part in text), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(EMBEDDED_PATH / name, folder / name)
    return folder
