"""The shape of the code: sizes, names, first sentences, and what must stand nowhere."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path for path in (ROOT / "whet").rglob("*.py"))
BESIDE = sorted(path for folder in ("tests", "tools", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
MODULES = [path for path in FILES if path.name != "__init__.py"]
FORBIDDEN_NAMES = {"utils", "util", "common", "core", "helpers", "helper", "manager", "misc"}
HEAVY = {"torch", "transformers", "peft"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(path: Path) -> set[str]:
    """First names of all modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_there_is_something_to_look_at() -> None:
    assert len(MODULES) > 40


@pytest.mark.parametrize("path", FILES + BESIDE, ids=name)
def test_a_file_has_at_most_400_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_opens_with_one_sentence(path: Path) -> None:
    words = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert words, "it has no docstring"
    first, _, rest = words.partition("\n")
    assert first.endswith("."), "its first line is no sentence"
    assert not re.search(r"\w\w[.!?] +[A-Z]", first), "its first line is more than one sentence"
    assert not rest or rest.startswith("\n"), "its first sentence runs over a line"


def test_no_name_says_nothing() -> None:
    names = {part.removesuffix(".py") for path in (ROOT / "whet").rglob("*") for part in path.relative_to(ROOT).parts}
    assert names & FORBIDDEN_NAMES == set()


def test_packages_open_with_empty_files() -> None:
    assert [name(path) for path in FILES if path.name == "__init__.py" and path.read_text(encoding="utf-8").strip()] == []
    folders = {path.parent for path in MODULES}
    assert [name(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


@pytest.mark.parametrize("path", FILES, ids=name)
def test_nothing_runs_code_out_of_files(path: Path) -> None:
    assert imported(path) & {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"} == set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in ("load", "save") and isinstance(node.value, ast.Name):
            assert node.value.id != "torch", f"torch.{node.attr} at line {node.lineno}"
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
            assert isinstance(node.value, ast.Constant)
            assert node.value.value is False
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec", "__import__"), f"line {node.lineno}"


def test_torch_stays_behind_its_backend() -> None:
    wall = ROOT / "whet" / "backends" / "on_torch"
    assert [name(path) for path in FILES if wall not in path.parents and imported(path) & HEAVY] == []
    assert any(imported(path) & HEAVY for path in FILES if wall in path.parents)
