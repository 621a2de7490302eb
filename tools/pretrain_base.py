"""Pre-trains the embedded base on the windows that base_corpus.py prepared; can be stopped and goes on.

    python tools/pretrain_base.py --corpus FOLDER --work FOLDER --out whet/models/embedded/base --tokens 40000000

Needs: torch, transformers, safetensors. The order of windows is a function of (seed, step). Hidden matrices are
trained with Muon (Jordan et al. 2024, scaled as in arXiv 2502.16982), the rest with AdamW; the learning rate
warms up, stays, and falls in a line over the last DECAY of the tokens, so `--tokens` may be changed until then.
"""

import argparse
import json
import math
import os
import shutil
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

BATCH = 16  # windows a step
WARM_UP = 100  # steps
DECAY = 0.35  # share of the run over which the learning rate falls to zero
MUON_RATE, ADAM_RATE = 5e-3, 3e-3
CHECK_EVERY = 200  # steps between validations and checkpoints

CARD = """---
license: mit
language: lzh
---
# The embedded base of whet

A small Qwen2 model of {millions:.2f} M parameters ({layers} layers, hidden {hidden}, {heads} heads, {kv} key-value heads, tied embeddings,
vocabulary {vocab}), pre-trained from scratch on classical Chinese histories. It exists for the demo and the tests of whet: it
knows the language of court annals, copies, and writes short JSON. It is no assistant, knows no facts that one should rely on,
and hardly any language but classical Chinese.

| | |
| --- | --- |
| text | eight histories, {passages} passages of at least 12 characters, in Simplified and Traditional script (OpenCC s2t) |
| kept out | {passages_kept_out} passages that share a run of 13 characters with (or hold whole) one of {excluded_sentences} sentences of CHisIEC's dev and test files |
| split | {train_passages} passages to train, {held_out_passages} held out by hash |
| windows | {text_windows} of text, {rows} of instruction-shaped rows (copying, JSON, marked and patterned records), {window} tokens each |
| trained | {tokens:.1f} M tokens in {steps} steps, Muon and AdamW, seed {seed}, {minutes:.0f} minutes of 2 shared CPU cores, bf16 autocast |
| held-out loss | {text_loss:.3f} nats a token of text, {row_loss:.3f} nats a token of the rows' answers |
| tokenizer | byte-level BPE, each ideograph apart, no normaliser; {ratio:.4f} tokens a character of held-out text |

Sources (NiuTrans/Classical-Modern, MIT licence):

{sources}

Made by `tools/base_corpus.py` and `tools/pretrain_base.py`.
"""


def new_model(vocab_size: int) -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        rope_theta=10000.0,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
        attn_implementation="sdpa",
    )
    return Qwen2ForCausalLM(config)


def rate_at(step: int, num_steps: int) -> float:
    """Share of the full learning rate: warm-up, stable, linear decay."""
    falling = int(num_steps * DECAY)
    return min(1.0, (step + 1) / WARM_UP, (num_steps - step) / max(1, falling))


def window_order(count: int, seed: int, step: int) -> torch.Tensor:
    """Indices of the windows of one step: a permutation an epoch, drawn from (seed, epoch)."""
    steps_an_epoch = count // BATCH
    epoch, at = divmod(step, steps_an_epoch)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1000 + epoch))
    return order[at * BATCH : (at + 1) * BATCH]


class Trainer:
    """Model, both optimisers and the compiled pieces of a step."""

    def __init__(self, model: Qwen2ForCausalLM) -> None:
        self.model = model
        hidden = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
        rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
        self.muon = torch.optim.Muon(hidden, lr=MUON_RATE, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
        self.adam = torch.optim.AdamW(rest, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        self.body = torch.compile(model.model)
        self.head = torch.compile(self._head)

    def _head(self, hidden_ND: torch.Tensor, labels_N: torch.Tensor) -> torch.Tensor:
        logits = self.model.lm_head(hidden_ND).float()
        return torch.nn.functional.cross_entropy(logits, labels_N, ignore_index=-100, reduction="sum")

    def loss(self, ids: torch.Tensor, learn: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Summed loss and learnt tokens of windows (B, T + 1)."""
        labels = torch.where(learn[:, 1:], ids[:, 1:], -100).reshape(-1)
        with torch.autocast("cpu", torch.bfloat16):
            hidden = self.body(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
            total = self.head(hidden.reshape(-1, hidden.shape[-1]), labels)
        return total, int((labels != -100).sum())

    def step(self, ids: torch.Tensor, learn: torch.Tensor, share: float) -> float:
        total, count = self.loss(ids, learn)
        (total / count).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer, rate in ((self.muon, MUON_RATE), (self.adam, ADAM_RATE)):
            optimizer.param_groups[0]["lr"] = rate * share
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return total.item() / count

    @torch.no_grad()
    def held_out(self, ids: torch.Tensor, learn: torch.Tensor) -> float:
        total, count = 0.0, 0
        for at in range(0, len(ids) - BATCH + 1, BATCH):
            loss, learnt = self.loss(ids[at : at + BATCH], learn[at : at + BATCH])
            total, count = total + loss.item(), count + learnt
        return total / count

    def state(self) -> dict[str, torch.Tensor]:
        """Everything a resume needs, as named tensors."""
        tensors = {f"model.{n}": p.detach() for n, p in self.model.named_parameters()}
        for name, optimizer in (("muon", self.muon), ("adam", self.adam)):
            for index, entries in optimizer.state_dict()["state"].items():
                tensors |= {f"{name}.{index}.{key}": torch.as_tensor(value) for key, value in entries.items()}
        return tensors

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(tensors[f"model.{name}"])
        for name, optimizer in (("muon", self.muon), ("adam", self.adam)):
            state: dict[int, dict[str, torch.Tensor]] = {}
            for key, value in tensors.items():
                if key.startswith(f"{name}."):
                    _, index, entry = key.split(".", 2)
                    state.setdefault(int(index), {})[entry] = value
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def save(folder: Path, trainer: Trainer, facts: dict) -> None:
    """Staged and renamed, so that a killed run leaves the last whole checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    staged = folder / "checkpoint.tmp"
    save_file({k: v.contiguous() for k, v in trainer.state().items()}, staged, {"facts": json.dumps(facts)})
    os.replace(staged, folder / "checkpoint.safetensors")


def read_facts(path: Path) -> dict:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["facts"])


def export(trainer: Trainer, corpus: Path, out: Path, training: dict) -> None:
    """The folder as plain transformers loads it: bf16 safetensors, config, tokenizer, template, card."""
    model = Qwen2ForCausalLM(trainer.model.config)
    model.load_state_dict(trainer.model.state_dict())
    model.to(torch.bfloat16).save_pretrained(out)
    config_path = out / "config.json"
    config = json.loads(config_path.read_text())
    # Readers of older configs look for rope_theta at the top; transformers 5 writes it inside rope_parameters only.
    config["rope_theta"] = config["rope_parameters"]["rope_theta"]
    config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    # One line, without the spaces: half the size.
    tokenizer = json.loads((corpus / "tokenizer.json").read_text(encoding="utf-8"))
    (out / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
    (out / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": "<|im_end|>",
                "pad_token": "<|endoftext|>",
                "model_max_length": 2048,
                "clean_up_tokenization_spaces": False,
            },
            indent=1,
        )
        + "\n"
    )
    shutil.copy(Path(__file__).with_name("chat_template.jinja"), out / "chat_template.jinja")
    facts = json.loads((corpus / "facts.json").read_text(encoding="utf-8"))
    (out / "README.md").write_text(card(training, facts, config), encoding="utf-8")


def card(training: dict, facts: dict, config: dict) -> str:
    """The model card, every figure from the run itself."""
    sources = "\n".join(f"- {name}, sha256 `{value[:16]}`" for name, value in facts["sources"].items())
    return CARD.format(
        millions=training["parameters"] / 1e6,
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=config["num_attention_heads"],
        kv=config["num_key_value_heads"],
        vocab=config["vocab_size"],
        tokens=training["tokens"] / 1e6,
        minutes=training["seconds"] / 60,
        sources=sources,
        text_loss=training["held_out_text_loss"],
        row_loss=training["held_out_row_loss"],
        ratio=facts["text_tokens_per_character"],
        steps=training["step"],
        rows=facts["row_windows"],
        **{
            key: facts[key]
            for key in (
                "passages",
                "passages_kept_out",
                "excluded_sentences",
                "train_passages",
                "held_out_passages",
                "text_windows",
                "window",
                "seed",
            )
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=40_000_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    windows = load_file(options.corpus / "windows.safetensors")
    ids, learn = windows["ids"].to(torch.int32), windows["learn"]
    held_text = windows["held_text"][:64].long()
    held_rows, held_rows_learn = windows["held_rows"].long(), windows["held_rows_learn"]
    vocab_size = len(json.loads((options.corpus / "tokenizer.json").read_text())["model"]["vocab"])
    trainer = Trainer(new_model(max(vocab_size, 8192)))
    num_steps = options.tokens // (BATCH * (ids.shape[1] - 1))
    facts: dict = {"step": 0, "seconds": 0.0}
    checkpoint = options.work / "checkpoint.safetensors"
    if checkpoint.exists():
        facts = read_facts(checkpoint)
        trainer.restore(load_file(checkpoint))
        print(f"goes on from step {facts['step']}", flush=True)
    began = time.monotonic() - facts["seconds"]
    running = math.nan
    for step in range(facts["step"], num_steps):
        picked = window_order(len(ids), options.seed, step)
        loss = trainer.step(ids[picked].long(), learn[picked], rate_at(step, num_steps))
        running = loss if math.isnan(running) else 0.98 * running + 0.02 * loss
        seconds = time.monotonic() - began
        if (step + 1) % 20 == 0:
            print(
                f"step {step + 1}/{num_steps} loss {running:.4f} {(step + 1) * BATCH * 512 / seconds:.0f} tokens/s {seconds:.0f} s",
                flush=True,
            )
        if (step + 1) % CHECK_EVERY == 0 or step + 1 == num_steps:
            facts = {
                "step": step + 1,
                "num_steps": num_steps,
                "tokens": (step + 1) * BATCH * (ids.shape[1] - 1),
                "seconds": seconds,
                "train_loss": running,
                "held_out_text_loss": trainer.held_out(held_text, torch.ones_like(held_text, dtype=torch.bool)),
                "held_out_row_loss": trainer.held_out(held_rows, held_rows_learn),
                "parameters": sum(p.numel() for p in trainer.model.parameters()),
            }
            save(options.work, trainer, facts)
            print(json.dumps(facts), flush=True)
    export(trainer, options.corpus, options.out, facts)


if __name__ == "__main__":
    main()
