"""The certificate of an export: what was compared with the trained model, what it found, and whether it is within its limits."""

import importlib.metadata
import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from whet.export.parity import GREEDY, Found, limits_of
from whet.storage import write_json, write_text

Status = Literal["passed", "failed", "not judged"]


@dataclass(slots=True)
class Judged:
    """One form of the model and what its judge found."""

    name: str
    kind: str
    judge: str
    found: Found | None = None
    faults: list[str] = field(default_factory=list)
    """What is beyond the limits, and where."""
    missing: str = ""
    """Why nobody judged it."""

    @property
    def status(self) -> Status:
        if self.found is None and not self.faults:
            return "not judged"
        return "failed" if self.faults else "passed"

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "type": self.kind,
            "judge": self.judge,
            "status": self.status,
            "limits": asdict(limits_of(self.kind)),
            "found": self.found.to_json() if self.found else None,
            "faults": self.faults,
            "missing": self.missing,
        }


@dataclass(slots=True)
class Certificate:
    """Everything that the certificate says."""

    model: str
    identity: Mapping[str, Any]
    """Fingerprints of base and adapter, hashes of the files."""
    prompts: str
    """Where the prompts come from, in words."""
    trained: str
    """Who read the trained model, in words."""
    forms: list[Judged] = field(default_factory=list)
    template: list[str] = field(default_factory=list)
    """What was found of the chat template, in words."""
    notes: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        """Every fault, with the form that has it."""
        return [f"{form.name}: {fault}" for form in self.forms for fault in form.faults]

    def to_json(self) -> dict[str, Any]:
        return {
            "whet": importlib.metadata.version("whet"),
            "model": self.model,
            "identity": dict(self.identity),
            "prompts": self.prompts,
            "trained": self.trained,
            "status": "failed" if self.faults else "passed" if any(form.found for form in self.forms) else "not judged",
            "forms": [form.to_json() for form in self.forms],
            "template": self.template,
            "notes": self.notes,
        }


def certificate_paths(out: Path) -> tuple[Path, Path]:
    """Where the certificate of an export stands: within its folder, or beside its file."""
    if out.suffix == ".gguf":
        return out.with_suffix(".certificate.json"), out.with_suffix(".certificate.html")
    return out / "certificate.json", out / "certificate.html"


def write_certificate(certificate: Certificate, paths: tuple[Path, Path]) -> None:
    """Write certificate.json and its page, one HTML file that loads nothing."""
    from jinja2 import Environment

    plain = certificate.to_json()
    source = importlib.resources.files("whet.export").joinpath("certificate.html.j2").read_text("utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(source).render(**plain, rows=[_row(form) for form in plain["forms"]], greedy=GREEDY)
    write_json(paths[0], plain)
    write_text(paths[1], page)


def _row(form: Mapping[str, Any]) -> dict[str, Any]:
    """What the page says of a form, in words."""
    found, limits = form["found"], form["limits"]
    if found is None:
        return {"form": form, "cells": []}
    allowed = "any" if limits["logits"] is None else f"{limits['logits'] * max(1, found['scale'] / 10):.2g}"
    parted = found["num_prompts"] - found["num_greedy"] - found["num_ties"]
    metric = found["metric"]
    parted_at = f"{found['num_ties']} part at a tie, {parted} elsewhere"
    cells = [
        ("same ids for the prompt", f"{found['num_same_ids']} of {found['num_prompts']}", "all"),
        ("largest logit difference", f"{found['largest']:.2g} of {found['scale']:.3g}", f"at most {allowed}"),
        ("same likeliest token", f"{share(found)} of {found['num_tokens']:,}", f"at least {limits['top1']:.0%}"),
        (
            f"same greedy reply over {GREEDY} tokens",
            f"{found['num_greedy']} of {found['num_prompts']}; {parted_at}",
            "all but ties" if limits["is_greedy"] else "any",
        ),
    ]
    if metric:
        said = f"{say_score(metric)}; trained {say_score(metric['trained'])}"
        cells.append((metric["name"], said, f"may lose {limits['metric_loss']:g}"))
    else:
        cells.append(("score of the task", "not measured", ""))
    return {"form": form, "cells": cells}


def share(found: Mapping[str, Any]) -> str:
    """Share of the places whose likeliest token is the same."""
    return f"{found['num_top1'] / max(1, found['num_tokens']):.1%}"


def say_score(score: Mapping[str, Any]) -> str:
    """A score with its interval."""
    return f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f}, {score['num']} examples)"


def say_certificate(certificate: Certificate) -> Sequence[str]:
    """The certificate in some lines for the terminal."""
    lines = []
    for form in certificate.forms:
        found = form.found
        if found is None:
            lines.append(f"{form.name} ({form.kind}): not judged: {form.missing or '; '.join(form.faults)}")
            continue
        said = [
            f"same ids {found.num_same_ids}/{found.num_prompts}",
            f"largest logit difference {found.largest:.2g}",
            f"same likeliest token {share(found.to_json())}",
            f"same greedy reply {found.num_greedy}/{found.num_prompts} ({found.num_ties} ties)",
        ]
        if metric := found.metric:
            said.append(f"{metric['name']} {metric['value']:.3f} (trained {metric['trained']['value']:.3f})")
        lines.append(f"{form.name} ({form.kind}, by {form.judge}): {form.status}; {', '.join(said)}")
    return [*lines, *certificate.template]
