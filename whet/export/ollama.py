"""The folder that `ollama create` reads: a GGUF file and a Modelfile that says how the model is asked."""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from whet.errors import InputError

# Ollama runs these by llama.cpp, which applies an adapter. Other families run in its own engine, which refuses or ignores one.
ADAPTER_ARCHES = ("llama",)


@dataclass(frozen=True, slots=True)
class Modelfile:
    """What a Modelfile says."""

    weights: str
    """Name of the GGUF file in the same folder."""
    template: str
    """In Go's template language."""
    stops: tuple[str, ...]
    num_context: int
    temperature: float = 0.0
    system: str = ""
    adapter: str = ""
    """Name of the adapter's GGUF file in the same folder."""

    def render(self) -> str:
        """The text of the Modelfile; InputError where a text can't be quoted in it."""
        lines = [f"FROM ./{self.weights}"]
        lines += [f"ADAPTER ./{self.adapter}"] if self.adapter else []
        lines += [f"TEMPLATE {_quoted(self.template, 'template')}"]
        lines += [f"SYSTEM {_quoted(self.system, 'system text')}"] if self.system else []
        lines += [f"PARAMETER stop {_stop(stop)}" for stop in self.stops]
        lines += [f"PARAMETER num_ctx {self.num_context}", f"PARAMETER temperature {self.temperature:g}"]
        return "\n".join(lines) + "\n"


def _quoted(text: str, what: str) -> str:
    if '"""' in text or text.endswith('"'):
        raise InputError(
            "Modelfile", f"the {what} holds quotes that a Modelfile can't ({text[-40:]!r})", "Change it, or set it in Ollama"
        )
    return f'"""{text}"""'


def _stop(text: str) -> str:
    if '"' in text or "\n" in text:
        raise InputError("Modelfile", f"a stop text can't be quoted ({text!r})", "Take a template with a plain end-of-turn mark")
    return f'"{text}"'


def refuse_adapter(arch: str) -> None:
    """InputError for families whose adapters Ollama does not apply rightly."""
    if arch not in ADAPTER_ARCHES:
        raise InputError(
            "--adapter",
            f"Ollama does not apply adapters to {arch} models rightly: its own engine refuses or ignores them (ollama#7781, "
            "ollama#9951). Llama and Mistral models take one",
            "Leave --adapter out: the fused model is exported",
        )


def create(name: str, folder: Path) -> str:
    """Have a running Ollama make a model of the folder; gives its last words. InputError where Ollama is missing or refuses."""
    ollama = shutil.which("ollama")
    if ollama is None:
        raise InputError(
            "--create",
            "the command ollama is not found",
            f"Install Ollama, then: cd {folder} && ollama create {name} -f Modelfile",
        )
    done = subprocess.run(  # noqa: S603 -- the program that the user installed; no shell
        [ollama, "create", name, "-f", "Modelfile"], cwd=folder, capture_output=True, text=True, check=False
    )
    words = _last_line((*done.stdout.splitlines(), *done.stderr.splitlines()))
    if done.returncode:
        raise InputError("--create", f"ollama refuses ({words})", "Is it running? Start it: ollama serve")
    return words


def _last_line(lines: Sequence[str]) -> str:
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "no words")
