"""Brings a specialist to Ollama: a folder with GGUF, Modelfile and certificate."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from whet.errors import InputError, ProofError
from whet.evaluate.run import pick
from whet.export.certificate import Certificate, certificate_paths
from whet.export.gguf_adapter import write_gguf_adapter
from whet.export.gguf_export import TYPES, export_gguf
from whet.export.gguf_families import read_layout
from whet.export.go_render import find_go
from whet.export.go_template import GoTemplate, check, derive
from whet.export.go_tools import check_with_tools, derive_with_tools, takes_tools
from whet.export.ollama import Modelfile, create, refuse_adapter
from whet.models.gguf_file import read_gguf
from whet.models.mlx_adapter import read_adapter
from whet.pipeline.bench import Folder
from whet.pipeline.certify import Exported, certify, gguf_form
from whet.pipeline.export_step import Say, Source, whole_model
from whet.pipeline.specialist import Specialist, open_specialist
from whet.records import Message
from whet.storage import staged_folder, write_text
from whet.tasks.table import open_task
from whet.text.chat import Chat


@dataclass(frozen=True, slots=True)
class OllamaChoices:
    """What the user asks of an export for Ollama."""

    kind: str = "q8_0"
    base: str | None = None
    template: Path | None = None
    """A Go template to take instead of a derived one."""
    is_adapter: bool = False
    create_as: str | None = None
    is_proved: bool = True
    temperature: float = 0.0


def export_ollama(what: str, out: Path, choices: OllamaChoices, say: Say) -> Certificate | None:
    """Write the folder; ProofError, and no folder, where the export is not the trained model."""
    kind = choices.kind.lower()
    if kind not in TYPES:
        raise InputError("--type", f"{choices.kind!r} is no type that whet writes", f"Take one of {', '.join(TYPES)}")
    if choices.create_as:
        safe_name(choices.create_as)
    if out.exists() and not (out / "Modelfile").is_file() and any(out.iterdir()):
        raise InputError(str(out), "holds other files", "Name a new folder with -o")
    with staged_folder(out) as folder:

        def tell(words: str) -> None:
            say(words.replace(str(folder), str(out)))

        try:
            made = _write(what, folder, kind, choices, tell)
        except ProofError as error:
            # The folder is not kept, what is wrong with it is.
            kept = [out.with_name(f"{out.name}.{path.name}") for path in certificate_paths(folder)]
            for path, place in zip(certificate_paths(folder), kept, strict=True):
                shutil.copyfile(path, place)
            raise ProofError(str(out), error.what, f"The whole comparison is in {kept[1]}") from None
    if choices.create_as:
        say(f"ollama create {choices.create_as}: {create(choices.create_as, out)}")
    say(f"folder: {out}")
    return made


def _write(what: str, folder: Path, kind: str, choices: OllamaChoices, say: Say) -> Certificate | None:
    """The files of the folder."""
    if choices.is_adapter:
        return _with_adapter(what, folder, kind, choices, say)
    with whole_model(what, choices.base, folder, say) as source:
        weights = folder / f"{source.name}-{kind}.gguf"
        say(f"writing {weights.name}")
        written = export_gguf(source.model, weights, kind, name=source.name)
        return _finish(what, folder, choices, source, (weights, None), written.notes, say)


def _with_adapter(what: str, folder: Path, kind: str, choices: OllamaChoices, say: Say) -> Certificate | None:
    found = open_specialist(Path(what), choices.base)
    refuse_adapter(read_layout(found.base.config, str(found.base.folder)).arch)
    if found.adapter.kind != "lora":
        raise InputError("--adapter", "this run trained the whole model, not an adapter", "Leave --adapter out")
    name = found.recipe.name if found.recipe else Path(what).resolve().name
    weights, adapter = folder / f"base-{kind}.gguf", folder / f"{name}-adapter.gguf"
    say(f"writing {weights.name} and {adapter.name}")
    written = export_gguf(found.base, weights, kind, name=found.base.folder.name)
    write_gguf_adapter(found.base, read_adapter(found.adapter.folder), adapter, name=name)
    return _finish(what, folder, choices, Source(found.base, found, name), (weights, adapter), written.notes, say)


def _finish(
    what: str,
    folder: Path,
    choices: OllamaChoices,
    source: Source,
    files: tuple[Path, Path | None],
    notes: Sequence[str],
    say: Say,
) -> Certificate | None:
    """Template, Modelfile and certificate of a folder that has its weights."""
    weights, adapter = files
    header = read_gguf(weights)
    chat = Chat(source.model.folder)
    adds_bos = header.fields.get("tokenizer.ggml.add_bos_token") is True
    shown, system = _conversations(source.specialist, Path(what))
    template, words = _template(chat, choices.template, adds_bos, shown)
    arch = header.text("general.architecture") or ""
    modelfile = Modelfile(
        weights.name,
        template.text,
        (chat.end_of_turn.strip(),),
        int(header.fields[f"{arch}.context_length"]),
        choices.temperature,
        system if template.takes_system else "",
        adapter.name if adapter else "",
    )
    write_text(folder / "Modelfile", modelfile.render())
    if not choices.is_proved:
        return None
    return certify(
        Exported(source.model, source.specialist, Path(what), folder, source.name, is_fused=adapter is None),
        lambda num_context: [gguf_form(source.model, weights, choices.kind.lower(), num_context, adapter)],
        say,
        template=words,
        notes=notes,
    )


def _template(chat: Chat, path: Path | None, adds_bos: bool, shown: Sequence[Sequence[Message]]) -> tuple[GoTemplate, list[str]]:
    """The Go template and what was found of it: one of the user's own is checked like a derived one."""
    if path is not None:
        try:
            template = GoTemplate(path.read_text(encoding="utf-8"), True, "given")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(str(path), f"is no template that can be read ({error})") from None
        if "{{" not in template.text or ".Messages" not in template.text:
            raise InputError(str(path), "renders no .Messages", "Write it as Ollama's documentation says")
        derived = _system_of(chat)
        template = replace(template, takes_system=derived)
    else:
        template = derive(chat, adds_bos=adds_bos)
    tools: list[str] = []
    if path is None and takes_tools(chat):
        template, tools = _with_tools(chat, template, adds_bos)
    if find_go() is None:
        return template, [
            *tools,
            "the Go template was not rendered: the command go is not found. It was derived from the model's own template; "
            "install Go (golang.org) and export again to have both compared",
        ]
    return template, check(chat, template, adds_bos=adds_bos, extra=shown) + tools


def _with_tools(chat: Chat, plain: GoTemplate, adds_bos: bool) -> tuple[GoTemplate, list[str]]:
    """The template with tools where Go proves it, else the one without; and what there is to say."""
    why = "the command go is not found, and nothing else would prove them"
    if find_go() is not None:
        try:
            template = derive_with_tools(chat, adds_bos=adds_bos)
            return template, check_with_tools(chat, template, adds_bos=adds_bos)
        except InputError as error:
            why = error.what
    said = f"TOOLS ARE LEFT OUT: the model's own template takes tools, and this one does not ({why})"
    return plain, [f"{said}. Ollama refuses requests with tools then; put them into the system text"]


def _system_of(chat: Chat) -> bool:
    """Whether the model's own template takes a system text."""
    try:
        return "\ue0a7S" in chat.render([Message("system", "\ue0a7S"), Message("user", "a")], is_prompt=True)
    except InputError:
        return False


def _conversations(found: Specialist | None, run: Path) -> tuple[list[tuple[Message, ...]], str]:
    """Held-out conversations of a run, and its system text where all have the same."""
    if found is None or found.recipe is None:
        return [], ""
    task = open_task(found.recipe.task)
    asked: list[Any] = [
        task.ask(example).messages for example in pick(list(Folder(run).examples(found.recipe.evaluate.split)), 8)
    ]
    systems = {messages[0].content if messages[0].role == "system" else "" for messages in asked}
    return [tuple(messages) for messages in asked], systems.pop() if len(systems) == 1 else ""


def safe_name(name: str) -> str:
    """A name that Ollama takes for a model."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._/-]*(:[a-z0-9._-]+)?", name):
        raise InputError(
            "--create", f"{name!r} is no name for a model", "Use small letters, digits, - and _, such as officials:1"
        )
    return name
