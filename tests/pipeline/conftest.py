"""Runs that tests of the steps share: a small corpus, a finished run of it, and a run for other engines."""

import shutil
from pathlib import Path

import pytest
from tiny_runs import Log, step_in

from whet.data.annals.write import write
from whet.evaluate.report import Report
from whet.recipe import recipe_from
from whet.storage import write_json


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write(folder, 14, 4, 6, 0)
    return folder


@pytest.fixture(scope="session")
def first(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report, Log]:
    """A finished run."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    report, log = step_in(corpus, folder)
    assert report
    return folder, report, log


@pytest.fixture
def done(first: tuple[Path, Report, Log], tmp_path: Path) -> Path:
    """A copy of the finished run, to spoil."""
    return shutil.copytree(first[0], tmp_path / "copy")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder as far as extracting with another engine needs one."""
    raw = {
        "name": "marked",
        "task": {"kind": "extraction", "fields": [{"name": "name"}, {"name": "office", "nullable": True}]},
        "data": {"sources": [{"reader": "inline", "path": "a.txt", "tags": {"name": {"tag": "P"}}}]},
        "extract": {"chunks": {"size": 60, "overlap": 20}},
    }
    write_json(tmp_path / "run" / "recipe.json", recipe_from(raw, [], "test", tmp_path).model_dump(mode="json"))
    return tmp_path / "run"
