"""One small corpus and one finished run for all tests of the steps."""

import shutil
from pathlib import Path

import pytest
from tiny_runs import Log, step_in

from whet.data.annals.write import write
from whet.evaluate.report import Report


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
