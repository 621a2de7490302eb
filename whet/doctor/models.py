"""Looks at a model folder: code in it, pickles, weights, the entries that other tools read, tokenizer and template."""

import re
from pathlib import Path
from typing import Any

from whet.doctor.finding import Context, Findings, error, note, warning
from whet.doctor.tokens import adds_begin
from whet.errors import InputError, counted
from whet.models.described import MORE_DESCRIPTIONS, named_code, read_description
from whet.models.mlx_config import THETA, flat_entries
from whet.models.weights import read_weights, read_weights_file, weights_files
from whet.records import Message
from whet.text.chat import Chat
from whet.text.piece_model import has_tokenizer
from whet.text.tokenizer import Tokenizer, named_tokens

# Every card of an instructed model says that it was fine-tuned; that it was merged is told by both words in one sentence.
_MERGED = re.compile(r"\b(?:lora|adapters?)\b[^.]*?\b(?:merged|fused)\b|\b(?:merged|fused)\b[^.]*?\b(?:lora|adapters?)\b")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def look(folder: Path, context: Context) -> Findings:
    """All findings about a model folder."""
    config = read_description(folder / "config.json")
    yield from _code(folder, config)
    yield from _weights(folder, context)
    yield from _entries(folder, config)
    yield from _speech(folder, config)


def _code(folder: Path, config: dict[str, Any]) -> Findings:
    for path in (folder / "config.json", *(folder / name for name in MORE_DESCRIPTIONS)):
        key = named_code(config if path.name == "config.json" else read_description(path) if path.is_file() else {})
        if key:
            yield error(
                "code in a model folder",
                path,
                f"it names code to run ({key})",
                "Whoever loads it with trust_remote_code runs what its author wrote.",
                "Take a model that transformers supports by itself",
            )
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES and not path.name.startswith("tokenizer"))
    if pickled:
        makes = warning if list(folder.glob("*.safetensors")) else error
        yield makes(
            "pickle",
            folder / pickled[0],
            f"{counted(len(pickled), 'pickled file')} ({', '.join(pickled[:3])})",
            "Opening them can run code that somebody put there.",
            "Convert the weights to safetensors; delete the rest",
        )


def _weights(folder: Path, context: Context) -> Findings:
    try:
        paths = weights_files(folder)
        for path in paths:
            read_weights_file(path)
    except InputError as fault:
        yield error(
            "weights that are not whole",
            fault.place,
            fault.what,
            "Sizes and offsets of a strange file can't be believed; a loader crashes or reads beyond it.",
            fault.remedy,
        )
        return
    if not paths or context.base is None or context.base.resolve() == folder.resolve():
        return
    try:
        ours, theirs = read_weights(folder), read_weights(context.base)
    except InputError:
        return
    shared = [name for name in ours if name in theirs and ours[name].shape == theirs[name].shape]
    if shared and len(shared) >= len(theirs) // 2:
        moved = [name for name in shared if _differs(ours[name], theirs[name])]
        if not moved:
            yield error(
                "weights that never changed",
                folder,
                f"all {counted(len(shared), 'tensor', 'is that', 'are those')} of the base, to the last bit",
                "The training or the merge was lost when it was saved: the base answers.",
                "Merge again, and compare: whet fuse",
            )


def _differs(ours: Any, theirs: Any) -> bool:
    if ours.dtype != theirs.dtype:
        return bool((ours.read() != theirs.read()).any())
    return any(left != right for left, right in zip(ours.pieces(), theirs.pieces(), strict=True))


def _entries(folder: Path, config: dict[str, Any]) -> Findings:
    theta, taken = flat_entries(config).get("rope_theta"), THETA.get(str(config.get("model_type")))
    if config.get("rope_theta") is None and isinstance(theta, int | float) and taken is not None and theta != taken:
        yield error(
            "an entry that mlx-lm does not read",
            folder / "config.json",
            f"rope_parameters.rope_theta is {theta:g}, and no top-level rope_theta says so",
            f"mlx-lm reads the top-level entry alone and takes {taken:g}: other positions, other answers.",
            f'Write both: "rope_theta": {theta:g} beside rope_parameters (whet export mlx does)',
        )
    quantized = config.get("quantization_config") or config.get("quantization")
    if isinstance(quantized, dict) and _was_merged(folder):
        method = quantized.get("quant_method") or f"{quantized.get('bits')} bits"
        yield warning(
            "merged into a quantised base",
            folder / "config.json",
            f"its weights are quantised ({method}), and an adapter was merged into them",
            "What an adapter adds is often smaller than a step of the quantisation: it is rounded away.",
            "Merge into the unquantised weights of the same revision, then quantise: whet fuse",
        )


def _was_merged(folder: Path) -> bool:
    """Whether something beside the model tells of an adapter that was merged into it."""
    readme = folder / "README.md"
    words = readme.read_text("utf-8", "replace")[:4000].lower() if readme.is_file() else ""
    return (folder / "adapter_config.json").is_file() or bool(_MERGED.search(words))


def _speech(folder: Path, config: dict[str, Any]) -> Findings:
    """Tokenizer, end of turn, padding, template."""
    if not has_tokenizer(folder):
        yield note(
            "no tokenizer",
            folder,
            "it has no tokenizer.json and no tokenizer.model",
            "Whoever serves it must guess one.",
            "Copy the base's beside it",
        )
        return
    try:
        size, rows = Tokenizer(folder).size, config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
    except InputError as fault:
        yield error("a tokenizer that can't be read", fault.place, fault.what, "Nothing can be encoded.", fault.remedy)
        return
    if isinstance(rows, int) and size > rows:
        yield error(
            "a tokenizer of another model",
            folder / "tokenizer.json",
            f"it has {size:,} entries, the model {rows:,} rows",
            f"{counted(size - rows, 'token', 'has', 'have')} no weights.",
            "Copy the tokenizer that the model was trained with",
        )
    try:
        chat = Chat(folder)
    except InputError as fault:
        yield warning(
            "a template that can't be used",
            fault.place,
            fault.what,
            "Training and serving can't be shown to be the same.",
            fault.remedy,
        )
        return
    yield from _template(folder, chat)
    yield from _ends(folder, config, chat)


def _template(folder: Path, chat: Chat) -> Findings:
    asked = [Message("user", "?")]
    try:
        injected = chat.injected_text(asked)
        prompt = chat.render(asked, is_prompt=True)
    except InputError as fault:
        yield warning(
            "a template that can't be used",
            folder,
            fault.what,
            "Training and serving can't be shown to be the same.",
            fault.remedy,
        )
        return
    if injected:
        yield warning(
            "a template that speaks by itself",
            folder,
            f"it writes {injected[:80]!r} where no system message is given",
            "Tools that write the prompt themselves leave it out: the model is asked another question than it was trained on.",
            "Give a system message in training and in serving (an empty one is one too)",
        )
    try:
        chat.training_ids(asked, "a")
    except InputError as fault:
        yield warning(
            "a template that is not continued", folder, fault.what, "What is trained is not what is asked.", fault.remedy
        )
    begin = named_tokens(folder).get("bos_token")
    if begin and prompt.startswith(begin) and adds_begin(chat, begin):
        yield warning(
            "a doubled beginning",
            folder,
            f"the template writes {begin}, and the tokenizer adds it again by itself",
            "Encoded in one go, every prompt begins with it twice; scores fall to a fraction.",
            "Encode rendered prompts with add_special_tokens=False",
        )


def _ends(folder: Path, config: dict[str, Any], chat: Chat) -> Findings:
    path = folder / "generation_config.json"
    said = read_description(path) if path.is_file() else {}
    ends = said.get("eos_token_id", config.get("eos_token_id"))
    ends = ends if isinstance(ends, list) else [ends]
    if ends != [None] and chat.end_id not in ends:
        yield warning(
            "an end that is not the template's",
            path if path.is_file() else folder / "config.json",
            f"generation stops at {ends}, and a turn ends with {chat.end_of_turn.strip()!r} ({chat.end_id})",
            "The model writes on after its answer, as somebody else.",
            f"Add {chat.end_id} to eos_token_id in generation_config.json",
        )
    named = named_tokens(folder)
    if named.get("pad_token") and named["pad_token"] == chat.end_of_turn.strip():
        yield warning(
            "padding that hides the end",
            folder / "tokenizer_config.json",
            f"padding and end of turn are the same token, {named['pad_token']!r}",
            "Trainers that mask padding mask the end of turn too: the model never learns to stop.",
            "Give padding a token of its own",
        )
