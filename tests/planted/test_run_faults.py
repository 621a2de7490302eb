"""Faults planted in settings, recipes, folders, templates and the run itself, each found by the command line."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from planted_rows import EXTRACTION, GOOD, MANY, Whet, jsonl, kept, source

from whet.models.base_model import EMBEDDED_PATH
from whet.storage import locked


def test_misspelt_settings_are_shown_all_at_once(whet: Whet, place: Path) -> None:
    recipe = (
        "nam: x\nname: t\ntask: {kind: extraction, fields: [{name: name, nulable: true}]}\ndata:\n  sources:\n"
        "    - {reader: examples, path: a.jsonl, pth: a.jsonl, ignore_key: [x]}\n    - {reader: exampels, path: a.jsonl}\n"
        "  splt: {valid: 0.1}\n  split: {vlaid: 0.2}\ntrain: {learnin_rate: 1}\n"
    )
    said = whet.refuse(recipe, {"a.jsonl": GOOD}, "train.epoch=3")
    lines = {line.strip() for line in said.splitlines()[1:]}
    assert said.splitlines()[0] == "r.yaml: 9 faults"
    assert lines == {
        "r.yaml:1: unknown setting nam; did you mean name?",
        "r.yaml:3: unknown setting task.fields.0.nulable; did you mean nullable?",
        "r.yaml:6: unknown setting data.sources.0.pth; did you mean path?",
        "r.yaml:6: unknown setting data.sources.0.ignore_key; did you mean ignore_keys?",
        "r.yaml:7: data.sources.1.reader: unknown reader exampels; did you mean examples?",
        "r.yaml:8: unknown setting data.splt; did you mean split?",
        "r.yaml:9: unknown setting data.split.vlaid; did you mean valid?",
        "r.yaml:10: unknown setting train.learnin_rate; did you mean learning_rate?",
        "'train.epoch=3': unknown setting train.epoch; did you mean epochs?",
    }
    assert not (place / "run").exists()


@pytest.mark.parametrize(
    ("recipe", "start"),
    [
        (b"", "r.yaml: holds nothing, not settings. See `whet recipe schema`"),
        (b"- a\n- b\n", "r.yaml: holds list, not settings. See `whet recipe schema`"),
        (b"a: [1,\nb: }\n", "r.yaml:2: not YAML"),
        (b"name: t\n\ttask: x\n", "r.yaml:2: not YAML"),
        (b"a: b\n" * 400_000, "r.yaml: is larger than 1 MB. A recipe is a short YAML file"),
        (bytes(range(256)), "r.yaml: is not UTF-8 (byte 128). Save it as UTF-8"),
        (EXTRACTION.encode() + b"name: u\n", "r.yaml:3: name is given twice. Keep one of them"),
        (EXTRACTION.encode() + b"data:\n  sources:\n    - {path: a.jsonl}\n", "r.yaml: 1 fault\n  r.yaml:5: data.sources.0.reader is missing"),
    ],
    ids=["empty", "list", "not YAML", "tab", "large", "binary", "twice", "no reader"],
)  # fmt: skip
def test_a_recipe_that_is_none(whet: Whet, recipe: bytes, start: str) -> None:
    assert whet.refuse(recipe, {}).startswith(start)


def test_paths_that_are_not_files(whet: Whet, place: Path) -> None:
    said = whet.refuse(EXTRACTION + source(), {})
    assert said.startswith("a.jsonl: no such file. Check `path` of this source")
    (place / "a.jsonl").mkdir()
    assert "a folder without a file that this reader takes" in whet.refuse(EXTRACTION + source(), {})
    (place / "r.yaml").unlink()
    assert whet.refuse(None, {}).startswith("r.yaml: no such file. Check the path")
    (place / "r.yaml").mkdir()
    assert whet.refuse(None, {}).startswith("r.yaml: is a folder, a file is needed")


@pytest.mark.parametrize("out", ["f", "f/x"])
def test_an_output_folder_that_can_not_be(whet: Whet, place: Path, out: str) -> None:
    (place / "a.jsonl").write_bytes(jsonl(GOOD))
    (place / "r.yaml").write_text(EXTRACTION + source())
    (place / "f").write_text("mine")
    code, said = whet.run("data", "build", "r.yaml", "-o", out)
    assert code == 2, said
    assert said.startswith(f"whet: {out}: can't be written")
    assert "--out" in said
    assert (place / "f").read_text() == "mine"


def test_a_full_disk(whet: Whet, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        said = whet.refuse(EXTRACTION + source(), {"a.jsonl": GOOD})
    assert "can't be written (No space left on device). Free some space" in said
    assert whet.run("data", "build", "r.yaml", "-o", "run")[0] == 0


def test_a_folder_in_which_another_run_works(whet: Whet, place: Path) -> None:
    with locked(place / "run"):
        said = whet.refuse(EXTRACTION + source(), {"a.jsonl": GOOD})
    assert said.startswith("run: another whet is at work in it. Wait until it ends, or give --out")
    assert whet.run("data", "build", "r.yaml", "-o", "run")[0] == 0


INJECTED = "{%- if messages[0]['role'] != 'system' -%}{{- '<|im_start|>system\\nYou are a kind assistant.<|im_end|>\\n' -}}{%- endif -%}\n"
BEHIND = " + ('\\nYou are a kind assistant.' if message['role'] == 'user' else '')"
ALWAYS = "{{- '<|im_start|>system\\nYou are a kind assistant.<|im_end|>\\n' -}}\n"


@pytest.mark.parametrize(
    ("injected", "settings", "remedy"),
    [
        (INJECTED, (), "Set task.system to the system message that you want"),
        (ALWAYS, (), "Set task.system"),
        (BEHIND, (), "take these words out of the folder's chat_template.jinja"),
        (ALWAYS, ("task.system=Read.",), "Take these words out of the folder's chat_template.jinja"),
    ],
    ids=["without a system message", "always", "behind the question", "beside a system message"],
)
def test_a_template_that_adds_words(
    whet: Whet, place: Path, monkeypatch: pytest.MonkeyPatch, injected: str, settings: tuple[str, ...], remedy: str
) -> None:
    base = place / "base"
    base.mkdir()
    for path in EMBEDDED_PATH.iterdir():
        shutil.copy(path, base)
    template = base / "chat_template.jinja"
    plain, content = template.read_text(), "message['content']"
    template.write_text(plain.replace(content, content + injected) if injected == BEHIND else injected + plain)

    def opened(*_: Any) -> None:
        raise AssertionError("the model was opened before its input was proved")

    monkeypatch.setattr("whet.backends.open.open_backend", opened)
    (place / "a.jsonl").write_bytes(jsonl(GOOD))
    (place / "r.yaml").write_text(f"base: {base}\n" + EXTRACTION + source())
    code, said = whet.run("train", "r.yaml", *settings, "-o", "run")
    assert code == 2, said
    assert f"whet: {base}: not so: the template adds no words of its own" in said
    assert "You are a kind assistant." in said
    assert remedy in said
    assert "Traceback" not in said
    assert not (place / "run" / "train" / "adapter").exists()


def started(*words: str) -> subprocess.Popen[str]:
    # Where the tests run in the background, Ctrl-C is switched off for their children too.
    # At its end it says its own peak: what the system tells of children counts the size of the parent at the fork, too.
    code = (
        "import atexit, pathlib, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "status = pathlib.Path('/proc/self/status')\n"
        "if status.exists(): atexit.register(lambda: print(status.read_text(), file=sys.stderr))\n"
        "from whet.cli.main import main; main()"
    )
    return subprocess.Popen([sys.executable, "-c", code, *words], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def build_at_work(place: Path) -> subprocess.Popen[str]:
    """A build of many rows, in the middle of its work."""
    process = started("data", "build", "r.yaml", "-o", "run")
    while not list(place.glob("run/.data.*.part/rows.spool")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    return process


@pytest.mark.integration
def test_an_interrupted_build_leaves_nothing_and_can_be_done_again(whet: Whet, place: Path) -> None:
    (place / "r.yaml").write_text(EXTRACTION + source())
    (place / "a.jsonl").write_bytes(jsonl(MANY * 30))
    process = build_at_work(place)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode == 130
    assert "whet: stopped" in said
    assert "Traceback" not in said
    assert not list(place.glob("run/.data*"))
    assert not (place / "run/data").exists()

    process = build_at_work(place)
    process.kill()
    process.communicate()
    assert list(place.glob("run/.data.*.part"))
    (place / "a.jsonl").write_bytes(jsonl(GOOD))
    assert whet.run("data", "build", "r.yaml", "-o", "run")[0] == 0
    assert not list(place.glob("run/.data*"))
    assert {path.name for path in (place / "run/data").iterdir()} >= {"train.jsonl", "manifest.json"}


@pytest.mark.integration
def test_a_line_of_200_mb_is_never_held(place: Path) -> None:
    with (place / "a.jsonl").open("wb") as file:
        file.write(jsonl(MANY) + b'{"messages": [{"role": "user", "content": "')
        for _ in range(200):
            file.write(b"x" * 2**20)
        file.write(b'"}]}\n')
    (place / "r.yaml").write_text(EXTRACTION + source())
    process = started("data", "build", "r.yaml", "-o", "run")
    said = process.communicate()[1]
    (place / "a.jsonl").unlink()
    assert process.returncode == 2, said
    assert "whet: a.jsonl:361: 1 of 361 rows can't be used" in said
    assert "a line of 209,715,2" in said
    assert "raise max_line_bytes" in said
    assert "Traceback" not in said
    [row] = kept(place)
    assert len(row["raw"]) == 500
    if peak := re.search(r"VmHWM:\s+(\d+) kB", said):  # Linux
        assert int(peak.group(1)) * 1024 < 700 * 2**20


@pytest.mark.parametrize("flags", [(), ("--resume",), ("--no-resume",)])
def test_a_training_begins_anew_only_when_it_is_told_to(
    whet: Whet, place: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
) -> None:
    (place / "run/train/checkpoints/step-2").mkdir(parents=True)
    (place / "a.jsonl").write_bytes(jsonl(GOOD))
    (place / "r.yaml").write_text(EXTRACTION + source())
    monkeypatch.setattr("whet.cli.runs.do_steps", lambda *_: None)
    code, said = whet.run("train", "r.yaml", *flags, "-o", "run")
    assert code == 0, said
    assert (place / "run/train/checkpoints/step-2").is_dir() == (flags != ("--no-resume",))
