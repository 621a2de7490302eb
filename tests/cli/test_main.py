"""The command line: a user's fault is one message and exit code 2, never a traceback; help comes fast and with an example."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from whet.cli import main as cli
from whet.pipeline.train_step import StoppedError

RECIPE = {
    "name": "tiny",
    "task": {"kind": "extraction", "fields": [{"name": "name"}]},
    "data": {
        "sources": [{"reader": "inline", "path": "a.txt", "tags": {"name": {"tag": "P"}}}],
        "split": {"valid": 0.2, "test": 0.2},
    },
}
COMMANDS = [
    "demo",
    "run",
    "train",
    "plan",
    "evaluate",
    "compare",
    "gate",
    "ask",
    "view",
    "extract",
    "fuse",
    "adapter show",
    "adapter check",
    "adapter convert",
    "export hf",
    "export mlx",
    "export gguf",
    "export ollama",
    "data build",
    "data show",
    "data domain",
    "recipe show",
    "recipe explain",
    "recipe schema",
]


class Said:
    """What the command gave."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def whet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Runs the command in an empty folder, as its entry point does."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["whet", *words])
        code: object = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        said = capsys.readouterr()
        assert isinstance(code, int)
        assert "Traceback" not in said.out + said.err
        return Said(code, said.out, said.err)

    return call


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    people = ["蹇義", "楊榮", "夏原吉", "金幼孜", "胡廣", "解縉", "黃淮", "楊溥", "陳循", "于謙", "王直", "李賢"]
    places = [
        "江西泰和人",
        "初為修撰",
        "卒於南京官舍",
        "上嘉其廉",
        "領兵往宣府",
        "請老許之",
        "坐事下獄",
        "使安南還",
        "奏河決開封",
        "賜鈔百錠",
        "督漕淮上",
        "主會試",
    ]
    (tmp_path / "a.txt").write_text("".join(f"<P>{a}</P>{b}。\n" for a, b in zip(people, places, strict=True)), encoding="utf-8")
    return "r.yaml"


def test_the_version_is_told(whet) -> None:
    said = whet("--version")
    assert (said.code, bool(re.fullmatch(r"whet \d+\.\d+\.\d+\S*\n", said.out))) == (0, True)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    said = CliRunner().invoke(cli.app, [*command.split(), "--help"])
    assert said.exit_code == 0
    example = said.output.partition("Example: whet ")[2]
    assert example.startswith(command)


def test_the_examples_name_every_command() -> None:
    said = CliRunner().invoke(cli.app, ["--help"]).output
    assert "whet demo" in said
    assert {command.split()[0] for command in COMMANDS} <= set(said.split())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run", "none.yaml"], "none.yaml: no such file"),
        (["run", "."], "is a folder"),
        (["run", "r.yaml", "train.epoch=3"], "did you mean epochs?"),
        (["run", "r.yaml", "train.epochs"], "no key=value pair"),
        (["run", "r.yaml", "train.epochs=many"], "valid number"),
        (["run", "r.yaml", "base=nowhere"], "no config.json"),
        (["run", "r.yaml", "data.sources.0.path=none.txt"], "none.txt"),
        (["run", "r.yaml", "--out", "a.txt"], "can't be written"),
        (["train", "r.yaml", "train=null"], "train: null"),
        (["evaluate", "none.yaml"], "no such file"),
        (["evaluate", "."], "no run folder"),
        (["evaluate", ".", "train.epochs=1"], "not for a run folder"),
        (["compare", ".", "."], "holds no answers"),
        (["ask", ".", "蹇義卒。"], "no run folder"),
        (["data", "show", "none"], "no such file"),
        (["recipe", "show", "none.yaml"], "no such file"),
        (["recipe", "explain", "a.txt"], "not settings"),
    ],
)
def test_a_users_fault_is_one_message_and_exit_code_2(words: list[str], told: str, whet, recipe: str) -> None:
    said = whet(*words)
    assert said.code == 2
    assert said.err.startswith("whet: ")
    assert told in said.err
    assert said.out == ""


@pytest.mark.parametrize(
    "words", [["sharpen"], ["run"], ["run", "r.yaml", "--fast"], ["data", "melt"], ["data", "show", ".", "-n", "-1"]]
)
def test_a_wrong_command_line_is_told_in_a_few_lines(words: list[str], whet) -> None:
    said = whet(*words)
    assert said.code == 2
    assert re.match(r"Usage: .*whet", said.err)
    assert "Error: " in said.err


def test_a_recipe_is_shown_whole_and_reads_back(whet, recipe: str, tmp_path: Path) -> None:
    shown = whet("recipe", "show", recipe, "train.epochs=7", "train.learning_rate=5e-4")
    found = yaml.safe_load(shown.out)
    assert (found["train"]["epochs"], found["train"]["learning_rate"], found["data"]["root"]) == (7, 5e-4, ".")
    (tmp_path / "shown.yaml").write_text(shown.out, encoding="utf-8")
    assert whet("recipe", "show", "shown.yaml").out == shown.out


def test_a_recipe_is_explained(whet, recipe: str) -> None:
    said = whet("recipe", "explain", recipe)
    assert said.code == 0
    for words in ("train.learning_rate", "0.001", "Largest learning rate.", "task.fields.0.name", "evaluate.max_error_rate"):
        assert words in said.out


def test_the_schema_is_json_and_knows_every_section(whet) -> None:
    schema = json.loads(whet("recipe", "schema").out)
    sections = {"name", "base", "task", "data", "train", "device", "engine", "evaluate", "calibrate", "extract"}
    assert set(schema["properties"]) == sections
    assert schema["additionalProperties"] is False


def test_data_are_built_and_shown(whet, recipe: str) -> None:
    built = whet("data", "build", recipe, "--out", "runs/x")
    assert built.code == 0, built.err
    for words in ("read", "12", "split hash", "leaks: 0 found"):
        assert words in built.out
    shown = whet("data", "show", "runs/x", "-n", "1")
    assert shown.code == 0
    assert shown.out.count("name=") == 1
    assert whet("data", "show", "runs/x/data").code == 0
    assert whet("data", "build", recipe, "--out", "runs/x").err.count("skipped") == 1


@pytest.mark.parametrize(
    ("stop", "told"), [(KeyboardInterrupt, "finished steps are kept"), (StoppedError, "best adapter so far")]
)
def test_ctrl_c_is_told_and_ends_with_130(stop: type, told: str, whet, recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise stop

    monkeypatch.setattr("whet.pipeline.run.run", interrupted)
    said = whet("run", recipe)
    assert said.code == 130
    assert said.err.startswith("whet: stopped; ")
    assert told in said.err


def test_help_opens_nothing_heavy() -> None:
    code = "import sys, whet.cli.main; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert "whet.cli.main" in loaded
    heavy = {
        "torch",
        "transformers",
        "peft",
        "scipy",
        "numpy",
        "pydantic",
        "tokenizers",
        "jinja2",
        "yaml",
        "safetensors",
        "opencc",
    }
    assert loaded & heavy == set()
