"""Renders conversations by Go's own text/template, as Ollama calls it, where the command go is installed."""

import importlib.resources
import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from whet.errors import InputError
from whet.records import Message

MAX_SECONDS = 120
"""Of one rendering, Go's compiler included: seconds where it has compiled before."""


def find_go() -> str | None:
    """The go command, where there is one."""
    return shutil.which("go")


def render_go(template: str, conversations: Sequence[Sequence[Message]]) -> list[str]:
    """Conversations of plain messages, rendered; see render_talks."""
    return render_talks(template, [{"messages": [plain(message) for message in turns]} for turns in conversations])


def plain(message: Message) -> dict[str, Any]:
    """A message as Ollama is sent it."""
    return {"role": message.role, "content": message.content}


def render_talks(template: str, talks: Sequence[Mapping[str, Any]]) -> list[str]:
    """The prompts of conversations, each with its messages and tools in Ollama's own form.

    Templates that name .Prompt and .Response are rendered turn by turn, as Ollama renders them. InputError with Go's words where
    the template is broken, or takes time, memory or room without end.
    """
    go = find_go()
    assert go is not None
    with tempfile.TemporaryDirectory(prefix="whet-go-") as folder:
        program = Path(folder) / "render.go"
        source = importlib.resources.files("whet.export").joinpath("render.go.txt").read_text("utf-8")
        program.write_text(source, encoding="utf-8")
        try:
            done = subprocess.run(  # noqa: S603 -- the compiler that the user installed, and our own program
                [go, "run", str(program)],
                input=json.dumps({"template": template, "conversations": list(talks)}),
                capture_output=True,
                text=True,
                encoding="utf-8",
                check=False,
                cwd=folder,
                timeout=MAX_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise InputError("template", f"Go does not render it within {MAX_SECONDS} s", "Mend the template") from None
    if done.returncode:
        raise InputError("template", f"Go does not render it ({' '.join(done.stderr.split())[:300]})", "Mend the template")
    found: list[str] = json.loads(done.stdout)
    return found
