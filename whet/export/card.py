"""The README.md of a model folder that is written: what it was made from, by what data, with what scores."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from whet.errors import counted
from whet.models.adapter import Adapter
from whet.models.base_model import BaseModel
from whet.storage import write_text

_MAX_README = 1_000_000


@dataclass(frozen=True, slots=True)
class Facts:
    """What a run knows of its specialist, for the card."""

    name: str
    task: str = ""
    """What it is asked, in words."""
    scores: tuple[tuple[str, str, str], ...] = ()
    """System, measure, figure with its interval."""
    conclusions: tuple[str, ...] = ()
    data: tuple[tuple[str, int, str], ...] = ()
    """Split, number of examples, SHA-256 of its file."""
    sources: tuple[tuple[str, str], ...] = ()
    """File that the data came from, its SHA-256."""
    settings: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Licence:
    """What a base's folder says of its licence."""

    name: str
    """As its card names it; empty where it does not."""
    words: str


def licence_of(base: BaseModel) -> Licence:
    """The licence that a base's README.md names in its head, or else the first line of its LICENSE."""
    head = _head(base.folder / "README.md")
    name = head.get("license_name") or head.get("license")
    if isinstance(name, str) and name:
        link = head.get("license_link")
        return Licence(str(head.get("license")), name + (f" ({link})" if isinstance(link, str) else ""))
    for file in ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE"):
        path = base.folder / file
        if path.is_file():
            with path.open(encoding="utf-8", errors="replace") as text:
                first = next((line.strip() for line in text if line.strip()), "")
            return Licence("", f"see {file}: {first[:120]}")
    return Licence("", "unknown: the base's folder does not say; look where it came from before you pass it on")


def _head(path: Path) -> dict[str, Any]:
    """The YAML head of a README.md; empty where there is none that can be read."""
    if not path.is_file() or path.stat().st_size > _MAX_README:
        return {}
    text = path.read_text("utf-8", "replace")
    head = text.split("\n---", 1)[0].removeprefix("---") if text.startswith("---") else ""
    try:
        if "&" in head or "*" in head:  # no anchors: they can blow up
            return {}
        found = yaml.safe_load(head)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def write_model_card(
    folder: Path,
    base: BaseModel,
    adapter: Adapter,
    fused: dict[str, Any],
    facts: Facts | None,
    *,
    library: str = "transformers",
    base_name: str = "",
) -> None:
    """Write README.md; nothing in it that was not read from a file or measured.

    fused: what fused_facts says; empty where nothing was fused. base_name: the base's name where others find it.
    """
    licence = licence_of(base)
    named = base_name or base.name
    head = {"base_model": named, "library_name": library, "pipeline_tag": "text-generation", "tags": ["whet"]}
    if licence.name:
        head["license"] = licence.name
    lines = ["---", yaml.safe_dump(head, allow_unicode=True, sort_keys=False).strip(), "---", ""]
    lines += [f"# {facts.name if facts else folder.name}", ""]
    if facts and facts.task:
        lines += ["## Task", "", facts.task, ""]
    if facts and facts.scores:
        lines += ["## Scores on held-out examples", "", "| system | measure | figure |", "| --- | --- | --- |"]
        lines += [f"| {_cell(system)} | {_cell(measure)} | {_cell(figure)} |" for system, measure, figure in facts.scores]
        lines += ["", *(f"- {words}" for words in facts.conclusions), ""]
    elif facts:
        lines += ["## Scores", "", "None: the run was not evaluated.", ""]
    lines += ["## Made from", "", "| what | |", "| --- | --- |"]
    kind = "the whole model, trained" if adapter.kind == "full" else "a LoRA adapter"
    lines += [
        f"| base | {_cell(named)}, fingerprint {base.fingerprint} |",
        f"| licence of the base | {_cell(licence.words)} |",
        f"| trained | {kind}, fingerprint {adapter.fingerprint} |",
        *(f"| {_cell(name)} | {_cell(value)} |" for name, value in (facts.settings if facts else ())),
        "",
    ]
    if facts and facts.data:
        lines += ["## Data", "", "| split | examples | SHA-256 |", "| --- | --- | --- |"]
        lines += [f"| {split} | {number} | {digest} |" for split, number, digest in facts.data]
        lines += ["", *(f"- {_cell(name)}: SHA-256 {digest}" for name, digest in facts.sources), ""]
    if fused:
        lines += ["## What the fusion kept", "", *(f"- {words}" for words in say_kept(fused)), ""]
    write_text(folder / "README.md", "\n".join(lines))


def say_kept(fused: dict[str, Any]) -> list[str]:
    """What a fusion did to the numbers, in sentences."""
    said = [
        f"{fused['num_changed']} of {fused['num_tensors']} tensors are changed; the weights are held in {fused['dtype']}.",
        f"{fused['share']:.2%} of the entries that the adapter changes have another stored number than the base's.",
        f"Rounding is {fused['error']:.2%} of the change (norms); no stored number is further than {fused['largest']:.2g} "
        "from the exact sum.",
    ]
    if fused["unchanged"]:
        said.append(f"{counted(len(fused['unchanged']), 'tensor', 'is', 'are')} named by the adapter and not changed by it, "
                    f"such as {fused['unchanged'][0]}.")  # fmt: skip
    return said + [f"{note[0].upper()}{note[1:]}." for note in fused["notes"]]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
