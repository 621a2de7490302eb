"""Looks at Ollama's Modelfiles: what is served, by which template and with which adapter, beside the base and what lies there."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from whet.doctor.finding import Context, Findings, error, note, warning
from whet.doctor.gguf_adapters import look_adapter
from whet.doctor.gguf_files import token_of
from whet.doctor.templates import Difference, first_difference
from whet.errors import InputError, open_to_read
from whet.export.go_render import find_go, render_go
from whet.export.ollama import ADAPTER_ARCHES
from whet.models.gguf_file import GgufFile, read_gguf
from whet.models.mlx_adapter import is_mlx
from whet.records import Message
from whet.text.chat import Chat
from whet.text.tokenizer import named_tokens

MAX_MODELFILE = 1_000_000
_LINE = re.compile(r"^\s*(FROM|ADAPTER|TEMPLATE|SYSTEM|PARAMETER|MESSAGE|LICENSE)\s+(.*)$", re.IGNORECASE)
_QUANTISED = re.compile(r"(^|[:.\-_])i?q[2-8](_|$|\b)", re.IGNORECASE)
_PLAIN = ("F32", "F16", "BF16")
_ACTION = re.compile(r"\{\{.*?\}\}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Said:
    """What a Modelfile says, by its instructions in capitals, and the model file that it names, where it lies there."""

    path: Path
    values: dict[str, list[str]]
    model: GgufFile | None

    def first(self, name: str) -> str:
        return (self.values.get(name) or [""])[0]

    @property
    def stops(self) -> list[str]:
        """The texts at which writing ends."""
        given = (value.partition(" ") for value in self.values.get("PARAMETER", []))
        return [stop.strip().strip('"') for name, _, stop in given if name.lower() == "stop"]


def look(path: Path, context: Context) -> Findings:
    """All findings about a Modelfile."""
    values = read_modelfile(path)
    source = (values.get("FROM") or [""])[0]
    if not source:
        yield error("no base", path, "it has no FROM", "There is nothing to serve.", "Write FROM ./model.gguf")
    said = Said(path, values, _gguf(path, source))
    for named in values.get("ADAPTER", []):
        yield from _adapter(said, named, context)
    yield from _template(said, context)


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
        elif len(value) > 1 and value[0] == value[-1] == '"':
            value = value[1:-1]
        found.setdefault(name, []).append(value)
    return found


def _gguf(path: Path, named: str) -> GgufFile | None:
    """The GGUF file that a Modelfile names, where it lies there and can be read."""
    try:
        place = path.parent / Path(named).expanduser()
        return read_gguf(place) if named.lower().endswith(".gguf") and place.is_file() else None
    except (InputError, OSError, ValueError, RuntimeError):  # of another's machine: ~user, too long, not ours to look into
        return None


def _folder(path: Path, named: str) -> Path | None:
    """The folder that a Modelfile names, or that of the weights which it names, where it lies there."""
    try:
        found = (path.parent / named).resolve()
        found = found.parent if found.suffix == ".safetensors" and found.is_file() else found
        return found if found.is_dir() else None
    except (OSError, ValueError):
        return None


def _adapter(said: Said, named: str, context: Context) -> Findings:
    folder = _folder(said.path, named)
    if folder is not None and is_mlx(folder):
        scale = _scale_of(folder, context)
        if scale is not None and scale != 1:
            yield error(
                "an adapter at another strength",
                said.path,
                f"the adapter {named} runs at strength 1.0 instead of {scale:g}",
                "Ollama reads alpha, which mlx-lm does not write.",
                "Fuse it, and export the model: whet fuse",
            )
    adapter = _gguf(said.path, named)
    if adapter is not None:
        yield from look_adapter(adapter, context)
        yield from _fit(said, named, adapter)
    arch = next((file.text("general.architecture") for file in (said.model, adapter) if file), None)
    if arch and arch not in ADAPTER_ARCHES:
        yield error(
            "an adapter that Ollama does not apply",
            said.path,
            f"ADAPTER {named} on a model of the family {arch}",
            "Ollama applies adapters to Llama and Mistral models; on others it refuses or ignores them (ollama#7781).",
            "Fuse it, and export the model: whet export ollama",
        )
    source = said.first("FROM")
    if _is_quantised(said.model) if said.model else _QUANTISED.search(source):
        yield warning(
            "an adapter on a quantised base",
            said.path,
            f"ADAPTER on {source}, which is quantised",
            "It was trained on other weights than it is served with.",
            "Use the base that it was trained on, or fuse and quantise",
        )


def _is_quantised(model: GgufFile) -> bool:
    return any(tensor.type not in _PLAIN for tensor in model.tensors if len(tensor.shape) > 1)


def _fit(said: Said, named: str, adapter: GgufFile) -> Findings:
    """Every pair of the adapter has a weight of its shape in the model."""
    if said.model is None:
        return
    shapes = {tensor.name: tensor.shape for tensor in said.model.tensors}
    off = []
    for tensor in adapter.tensors:
        weight, _, part = tensor.name.rpartition(".")
        shape = shapes.get(weight)
        # A reads what enters, B writes what leaves.
        at = {"lora_a": (1, 1), "lora_b": (0, 0)}.get(part)
        if weight == "token_embd.weight":  # llama.cpp turns its A, and looks tokens up in it
            at = {"lora_a": (0, 0), "lora_b": (0, 1)}.get(part)
        fits = at and shape and len(shape) == len(tensor.shape) == 2 and tensor.shape[at[0]] == shape[at[1]]
        if at and not fits:
            off.append(tensor.name)
    arches = [file.text("general.architecture") for file in (said.model, adapter)]
    if off or arches[0] != arches[1]:
        what = f"{len(off):,} of its tensors have no weight of their shape there, such as {off[0]}" if off else (
            f"it is made for {arches[1]} models, the model is {arches[0]}"
        )  # fmt: skip
        yield error(
            "an adapter of another base",
            said.path,
            f"{named} does not fit {said.first('FROM')}: {what}",
            "On another base it is noise, or it is not loaded.",
            "Use the base that it was trained on",
        )


def _scale_of(folder: Path, context: Context) -> float | None:
    from whet.models.mlx_adapter import read_mlx

    if str(folder) in context.strengths:
        return context.strengths[str(folder)]
    try:
        return next(iter(read_mlx(folder).layers.values())).scale
    except InputError:
        return None


def _template(said: Said, context: Context) -> Findings:
    template, source = said.first("TEMPLATE"), said.first("FROM")
    if not template:
        if _folder(said.path, source) is not None or source.endswith((".safetensors", ".gguf")):
            yield note(
                "no template",
                said.path,
                "it has no TEMPLATE",
                "Ollama guesses one from the model, and takes the bare prompt if it can't.",
                "Write the template: whet export ollama",
            )
        return
    if ".Prompt" not in template and ".Messages" not in template:
        yield error(
            "a template without the question",
            said.path,
            "its TEMPLATE names neither .Prompt nor .Messages",
            "The model never sees what is asked.",
            "Write {{ .Prompt }} into it",
        )
        return
    if said.values.get("SYSTEM") and ".System" not in template and ".Messages" not in template:
        yield error(
            "a system message that is not sent",
            said.path,
            "it has a SYSTEM, and its TEMPLATE no .System",
            "The prompt of the training is left out.",
            "Write {{ .System }} into the TEMPLATE",
        )
    try:
        chat = context.chat()
    except InputError:
        chat = None
    yield from _beginning(said, template, chat)
    if chat is not None:
        yield from _beside(said, template, chat)


def _beginning(said: Said, template: str, chat: Chat | None) -> Findings:
    """BOS stands once before a prompt: written by the template, or put there by the runner."""
    adds = said.model.fields.get("tokenizer.ggml.add_bos_token") if said.model else None
    bos = token_of(said.model, "bos") if said.model else ""
    starts = bool(bos) and _ACTION.sub("", template).lstrip().startswith(bos)
    if adds is True and starts:
        yield warning(
            "a doubled beginning",
            said.path,
            f"its TEMPLATE writes {bos}, and the runner adds it again (add_bos_token in {said.first('FROM')})",
            "Every prompt begins with it twice; scores fall to a fraction.",
            f"Take {bos} out of the TEMPLATE",
        )
    if adds is False and bos and chat is not None and bos not in template:
        prompt = chat.render([Message("user", "a")], is_prompt=True)
        if prompt.startswith(bos):
            yield warning(
                "a missing beginning",
                said.path,
                f"neither its TEMPLATE nor the runner (add_bos_token in {said.first('FROM')}) writes {bos}, with which a trained "
                "prompt begins",
                "Scores fall to a fraction without it.",
                f"Write {bos} at the start of the TEMPLATE",
            )


def _beside(said: Said, template: str, chat: Chat) -> Findings:
    """The template beside the base's own: rendered by Go where it is installed, else searched for the end of a turn."""
    end = chat.end_of_turn.strip()
    where = None
    if end not in template and end not in said.stops:
        where = Difference(f"neither TEMPLATE nor a stop names {end!r}, which ends a turn", is_first_turn=True)
    elif find_go() is not None:
        begin = chat.tokenizer.id_of(named_tokens(chat.folder).get("bos_token", ""))

        def render(asked: Sequence[Sequence[Message]]) -> list[str | None]:
            return [*render_go(template, asked)]

        try:
            # Templates for Ollama leave an empty system text out; none is ever sent.
            where = first_difference(chat, render, begin=begin, system=said.first("SYSTEM"), has_empty=False)
        except InputError as fault:
            yield note(
                "not looked at", said.path, f"its TEMPLATE: {fault.what}", "Whether it is the trained one was not seen.", ""
            )
    if where is not None:
        makes = error if where.is_first_turn else warning
        yield makes(
            "another template",
            said.path,
            f"its TEMPLATE gives other tokens than that of {chat.folder}: {where.words}",
            "The served prompt is not the trained one, and the model may not stop.",
            "Write it anew: whet export ollama",
        )
