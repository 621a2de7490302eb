"""Prepares the base's pre-training corpus: passages, held-out exclusion, tokenizer, windows of token ids.

    python tools/base_corpus.py --texts FOLDER --exclude FILE [FILE ...] --out FOLDER

FOLDER holds plain Simplified text files; FILE is a CHisIEC file (CoNLL columns or stand-off JSON) whose
sentences must not be seen. Needs: tokenizers, opencc, numpy, safetensors.
"""

import argparse
import hashlib
import json
import random
import re
import time
from pathlib import Path

import base_rows
import numpy as np
import opencc
from safetensors.numpy import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB_SIZE = 8192
WINDOW = 512  # tokens a training window; one more is stored for the shifted label
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
RUN = 13  # characters in common with an excluded sentence that keep a passage out
# The pattern of the Qwen2 family, so that other runtimes know this tokenizer as one of that family. Splitting
# every ideograph first adds no other result: no merge is ever learnt across two of them.
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
IDEOGRAPH = r"[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
LETTERS = re.compile(r"[^\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+")


def read_passages(folder: Path) -> list[str]:
    """Paragraphs of every text file, headings and spaces taken out, none shorter than 12 characters."""
    passages = []
    for path in sorted(folder.glob("*.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            line = re.sub(r"\s+", "", line)
            if len(line) >= 12 and line[0] not in "#◎○":
                passages.append(line)
    return passages


def excluded_sentences(paths: list[Path], to_simplified: opencc.OpenCC) -> list[str]:
    """The sentences of CHisIEC files, letters only, Simplified."""
    sentences = []
    for path in paths:
        raw = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            texts = [row["tokens"] for row in json.loads(raw)]
        else:
            blocks = re.split(r"\n\s*\n", raw)
            texts = ["".join(line.split()[0] for line in block.splitlines() if line.strip()) for block in blocks]
        sentences += [LETTERS.sub("", to_simplified.convert(text)) for text in texts]
    return [s for s in sentences if len(s) >= 4]


def keep_out(passages: list[str], sentences: list[str], to_simplified: opencc.OpenCC) -> tuple[list[str], int]:
    """Passages without a run of RUN characters of a sentence (or all of a shorter one), and how many were taken out."""
    runs = {s[i : i + RUN] for s in sentences if len(s) >= RUN for i in range(len(s) - RUN + 1)}
    short = re.compile("|".join(re.escape(s) for s in sentences if len(s) < RUN) or r"(?!)")
    kept = []
    for passage in passages:
        letters = LETTERS.sub("", to_simplified.convert(passage))
        hit = any(letters[i : i + RUN] in runs for i in range(len(letters) - RUN + 1)) or short.search(letters)
        if not hit:
            kept.append(passage)
    return kept, len(passages) - len(kept)


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Byte-level BPE whose merges stay inside one ideograph; no normaliser, so every character survives."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(IDEOGRAPH), "isolated"),
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        max_token_length=12,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def chat_ids(tokenizer: Tokenizer, row: base_rows.Row) -> tuple[list[int], list[bool]]:
    """Token ids of a row in ChatML and which of them are learnt: the answer and its end of turn."""
    head = f"<|im_start|>system\n{row.system}<|im_end|>\n" if row.system else ""
    prompt = f"{head}<|im_start|>user\n{row.user}<|im_end|>\n<|im_start|>assistant\n"
    asked = tokenizer.encode(prompt).ids
    answer = tokenizer.encode(f"{row.assistant}<|im_end|>\n").ids
    return asked + answer, [False] * len(asked) + [True] * len(answer)


def text_windows(tokenizer: Tokenizer, passages: list[str]) -> np.ndarray:
    """Plain passages end to end, cut into windows of WINDOW + 1 ids; the last partial window is left out."""
    end = tokenizer.token_to_id("<|endoftext|>")
    ids: list[int] = []
    for encoding in tokenizer.encode_batch(passages):
        ids += encoding.ids
        ids.append(end)
    count = len(ids) // (WINDOW + 1)
    return np.array(ids[: count * (WINDOW + 1)], dtype=np.uint16).reshape(count, WINDOW + 1)


def row_windows(tokenizer: Tokenizer, rows, count: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` windows filled with whole rows; what is left over at the end is padding that is not learnt."""
    pad = tokenizer.token_to_id("<|endoftext|>")
    ids = np.full((count, WINDOW + 1), pad, dtype=np.uint16)
    learn = np.zeros((count, WINDOW + 1), dtype=bool)
    at = window = 0
    while window < count:
        row_ids, row_learn = chat_ids(tokenizer, next(rows))
        if len(row_ids) > WINDOW:
            continue
        if at + len(row_ids) > WINDOW + 1:
            window, at = window + 1, 0
            if window == count:
                break
        ids[window, at : at + len(row_ids)] = row_ids
        learn[window, at : at + len(row_ids)] = row_learn
        at += len(row_ids)
    return ids, learn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--exclude", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--row-share", type=float, default=0.4, help="share of windows that hold rows")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    rng = random.Random(options.seed)
    to_simplified, to_traditional = opencc.OpenCC("t2s"), opencc.OpenCC("s2t")

    passages = read_passages(options.texts)
    sentences = excluded_sentences(options.exclude, to_simplified)
    kept, num_out = keep_out(passages, sentences, to_simplified)
    print(
        f"{len(passages)} passages, {num_out} kept out for {len(sentences)} sentences [{time.monotonic() - began:.0f} s]",
        flush=True,
    )
    held = [p for p in kept if int(hashlib.sha256(p.encode()).hexdigest()[:8], 16) % 200 == 0]
    held_set = set(held)
    train = [p for p in kept if p not in held_set]
    traditional = [to_traditional.convert(p) for p in train]
    held_traditional = [to_traditional.convert(p) for p in held]
    print(f"{len(train)} to train, {len(held)} held out [{time.monotonic() - began:.0f} s]", flush=True)

    short = [(p, t) for p, t in zip(train, traditional, strict=True) if len(p) <= 120 and len(t) == len(p)]
    say = to_traditional.convert

    def new_rows(pairs, seed):
        return base_rows.rows([p for p, _ in pairs], [t for _, t in pairs], random.Random(seed), say)

    sample_rows = new_rows(short, options.seed + 1)
    sample = rng.sample(train, len(train) // 4) + rng.sample(traditional, len(train) // 4)
    sample += [text for _ in range(20_000) for row in [next(sample_rows)] for text in (row.system or "", row.user, row.assistant)]
    tokenizer = train_tokenizer(sample)
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(options.out / "tokenizer.json"))
    print(f"tokenizer: {tokenizer.get_vocab_size()} [{time.monotonic() - began:.0f} s]", flush=True)

    plain = train + traditional
    rng.shuffle(plain)
    plain_ids = text_windows(tokenizer, plain)
    num_rows = int(len(plain_ids) * options.row_share / (1 - options.row_share))
    row_ids, row_learn = row_windows(tokenizer, new_rows(short, options.seed + 2), num_rows)
    print(f"{len(plain_ids)} text windows, {num_rows} row windows [{time.monotonic() - began:.0f} s]", flush=True)

    held_short = [(p, t) for p, t in zip(held, held_traditional, strict=True) if len(p) <= 120 and len(t) == len(p)]
    held_rows, held_rows_learn = row_windows(tokenizer, new_rows(held_short, options.seed + 3), 64)
    held_text = text_windows(tokenizer, held + held_traditional)
    save_file(
        {
            "ids": np.concatenate([plain_ids, row_ids]),
            "learn": np.concatenate([np.ones(plain_ids.shape, dtype=bool), row_learn]),
            "held_text": held_text,
            "held_rows": held_rows,
            "held_rows_learn": held_rows_learn,
        },
        options.out / "windows.safetensors",
    )
    facts = {
        "passages": len(passages),
        "passages_kept_out": num_out,
        "excluded_sentences": len(sentences),
        "train_passages": len(train),
        "held_out_passages": len(held),
        "text_windows": len(plain_ids),
        "row_windows": num_rows,
        "window": WINDOW,
        "seed": options.seed,
        "text_tokens_per_character": round(sum(len(tokenizer.encode(p).ids) for p in held) / sum(map(len, held)), 4),
        "sources": {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(options.texts.glob("*.txt"))},
    }
    (options.out / "facts.json").write_text(json.dumps(facts, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(facts, ensure_ascii=False)[:400], f"[{time.monotonic() - began:.0f} s]")


if __name__ == "__main__":
    main()
