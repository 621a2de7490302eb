"""Looks at what is served: GGUF files and Ollama's Modelfiles, beside the base and the adapters that are known."""

import re
from pathlib import Path

from whet.doctor.finding import Context, Findings, error, note, warning
from whet.errors import InputError, open_to_read
from whet.models.gguf_file import read_gguf
from whet.models.mlx_adapter import is_mlx
from whet.text.tokenizer import read_template

MAX_MODELFILE = 1_000_000
_LINE = re.compile(r"^\s*(FROM|ADAPTER|TEMPLATE|SYSTEM|PARAMETER|MESSAGE|LICENSE)\s+(.*)$", re.IGNORECASE)
_QUANTISED = re.compile(r"(^|[:.\-_])i?q[2-8](_|$|\b)", re.IGNORECASE)


def look_gguf(path: Path, context: Context) -> Findings:
    """All findings about a GGUF file."""
    try:
        file = read_gguf(path)
    except InputError as fault:
        yield error(
            "a GGUF file that is not whole",
            fault.place,
            fault.what,
            "Sizes and offsets of a strange file can't be believed; a loader crashes or reads beyond it.",
            fault.remedy,
        )
        return
    if file.text("general.type") == "adapter":
        alpha = file.fields.get("adapter.lora.alpha")
        if not alpha:
            yield error(
                "an adapter without strength",
                path,
                "it gives no adapter.lora.alpha",
                "llama.cpp then applies it at strength 1.",
                "Convert it again: whet export gguf",
            )
        return
    template = file.text("tokenizer.chat_template")
    if template is None:
        yield warning(
            "no template",
            path,
            "it holds no chat template",
            "The server takes a default one: other marks than in training.",
            "Export with the template: whet export gguf",
        )
    elif context.base is not None:
        wanted = read_template(context.base)
        if template.strip() != wanted.strip():
            yield error(
                "another template",
                path,
                f"its chat template ({len(template):,} characters) is not that of {context.base} ({len(wanted):,} characters)",
                "The served prompt has other tokens than the trained one.",
                "Export again from the folder that was trained",
            )
    chat = context.chat()
    end = file.fields.get("tokenizer.ggml.eos_token_id")
    also = file.fields.get("tokenizer.ggml.eot_token_id")
    if chat is not None and end is not None and chat.end_id not in (end, also):
        yield warning(
            "an end that is not the template's",
            path,
            f"generation stops at {end}, and a turn ends with id {chat.end_id}",
            "The model writes on after its answer.",
            f"Set eos to {chat.end_id} when exporting",
        )
    size = len(file.fields.get("tokenizer.ggml.tokens") or ())
    embedding = next((tensor for tensor in file.tensors if tensor.name == "token_embd.weight"), None)
    if embedding is not None and size and size > embedding.shape[0]:
        yield error(
            "a tokenizer of another model",
            path,
            f"{size:,} tokens, and {embedding.shape[0]:,} rows of embedding",
            "Some tokens have no weights.",
            "Export again with the model's own tokenizer",
        )


def read_modelfile(path: Path) -> dict[str, list[str]]:
    """What a Modelfile says, by its instructions in capitals; texts in triple quotes are whole."""
    with open_to_read(path) as file:
        raw = file.read(MAX_MODELFILE + 1)
    if len(raw) > MAX_MODELFILE:
        raise InputError(str(path), "is larger than 1 MB", "Is it a Modelfile?")
    found: dict[str, list[str]] = {}
    lines = iter(raw.decode("utf-8", "replace").splitlines())
    for line in lines:
        match = _LINE.match(line)
        if not match:
            continue
        name, value = match[1].upper(), match[2].strip()
        if value.startswith('"""'):
            value = value[3:]
            while '"""' not in value:
                more = next(lines, None)
                if more is None:
                    break
                value += f"\n{more}"
            value = value.partition('"""')[0]
        found.setdefault(name, []).append(value)
    return found


def look_modelfile(path: Path, context: Context) -> Findings:
    """All findings about a Modelfile."""
    said = read_modelfile(path)
    source = (said.get("FROM") or [""])[0]
    if not source:
        yield error("no base", path, "it has no FROM", "There is nothing to serve.", "Write FROM ./model.gguf")
    for named in said.get("ADAPTER", []):
        yield from _adapter(path, named, source, context)
    yield from _modelfile_template(path, said, source, context)


def _adapter(path: Path, named: str, source: str, context: Context) -> Findings:
    folder = (path.parent / named).resolve()
    folder = folder.parent if folder.is_file() and folder.suffix == ".safetensors" else folder
    if folder.is_dir() and is_mlx(folder):
        scale = _scale_of(folder, context)
        if scale is not None and scale != 1:
            yield error(
                "an adapter at another strength",
                path,
                f"the adapter {named} runs at strength 1.0 instead of {scale:g}",
                "Ollama reads alpha, which mlx-lm does not write.",
                "Fuse it, and export the model: whet fuse",
            )
    if _QUANTISED.search(source):
        yield warning(
            "an adapter on a quantised base",
            path,
            f"ADAPTER on {source}, which is quantised",
            "It was trained on other weights than it is served with.",
            "Use the base that it was trained on, or fuse and quantise",
        )


def _scale_of(folder: Path, context: Context) -> float | None:
    from whet.models.mlx_adapter import read_mlx

    if str(folder) in context.strengths:
        return context.strengths[str(folder)]
    try:
        return next(iter(read_mlx(folder).layers.values())).scale
    except InputError:
        return None


def _modelfile_template(path: Path, said: dict[str, list[str]], source: str, context: Context) -> Findings:
    template = (said.get("TEMPLATE") or [""])[0]
    stops = [
        value.partition(" ")[2].strip().strip('"') for value in said.get("PARAMETER", []) if value.lower().startswith("stop")
    ]
    if not template:
        if (path.parent / source).is_dir() or source.endswith((".safetensors", ".gguf")):
            yield note(
                "no template",
                path,
                "it has no TEMPLATE",
                "Ollama guesses one from the model, and takes the bare prompt if it can't.",
                "Write the template: whet export ollama",
            )
        return
    if ".Prompt" not in template and ".Messages" not in template:
        yield error(
            "a template without the question",
            path,
            "its TEMPLATE names neither .Prompt nor .Messages",
            "The model never sees what is asked.",
            "Write {{ .Prompt }} into it",
        )
    if said.get("SYSTEM") and ".System" not in template and ".Messages" not in template:
        yield error(
            "a system message that is not sent",
            path,
            "it has a SYSTEM, and its TEMPLATE no .System",
            "The prompt of the training is left out.",
            "Write {{ .System }} into the TEMPLATE",
        )
    try:
        chat = context.chat()
    except InputError:
        return
    if chat is not None:
        end = chat.end_of_turn.strip()
        if end not in template and end not in stops:
            yield error(
                "another template",
                path,
                f"neither TEMPLATE nor a stop names {end!r}, which ends a turn of {context.base}",
                "The served prompt is not the trained one, and the model does not stop.",
                "Write it anew: whet export ollama",
            )
