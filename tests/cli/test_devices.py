"""The launcher: who is started with what, what is shown, and how all end."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from whet.backends.processes import LOST, Alone, join
from whet.cli import devices
from whet.errors import InputError

pytestmark = pytest.mark.end_to_end  # each starts processes

FACTS = "import os, sys; open(sys.argv[1] + os.environ['RANK'], 'w').write(' '.join(os.environ[n] for n in sys.argv[2:]))"


def run(code: str, *arguments: str, num: int = 2) -> None:
    devices.launch(num, arguments, (sys.executable, "-S", "-c", code))


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "GRACE_S", 0.5)
    for name in ("RANK", "WORLD_SIZE", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


def test_every_process_knows_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_num_cores", lambda: 7)
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "OMP_NUM_THREADS", "MASTER_PORT")
    run(FACTS, f"{tmp_path}/", *names, num=3)
    found = [(tmp_path / str(rank)).read_text().split() for rank in range(3)]
    assert [facts[:6] for facts in found] == [[str(rank), str(rank), "3", "3", "127.0.0.1", "2"] for rank in range(3)]
    assert len({facts[6] for facts in found}) == 1


def test_threads_that_the_user_chose_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    run(FACTS, f"{tmp_path}/", "OMP_NUM_THREADS")
    assert (tmp_path / "1").read_text() == "5"


def test_one_failure_ends_all_and_is_shown_with_its_number(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = (
        "import os, sys, time\n"
        "if os.environ['RANK'] == '1': sys.exit('no card here')\n"
        "print('first', flush=True)\n"
        "time.sleep(600)\n"
    )
    with pytest.raises(devices.RankFailedError, match="process 1 ended with exit code 1") as failed:
        run(code)
    assert failed.value.exit_code == 1
    shown = capfd.readouterr()
    assert shown.out == "first\n"
    assert shown.err == "process 1: no card here\n"


def test_who_only_lost_another_is_not_blamed(capfd: pytest.CaptureFixture[str]) -> None:
    code = f"import os, sys, time\nif os.environ['RANK'] == '2': time.sleep(0.2); sys.exit('mine')\nsys.exit({LOST})"
    with pytest.raises(devices.RankFailedError, match="process 2"):
        run(code, num=3)
    assert capfd.readouterr().err == "process 2: mine\n"


def test_what_the_first_has_said_is_not_said_again(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        run("import sys; print('whet: a fault', file=sys.stderr); sys.exit(2)")
    assert left.value.code == 2
    assert capfd.readouterr().err == "whet: a fault\n"


def test_one_that_will_not_end_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, time, pathlib\n"
        "mine = pathlib.Path(sys.argv[1], os.environ['RANK'])\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "mine.write_text(str(os.getpid()))\n"
        "while os.environ['RANK'] == '1' and not mine.with_name('0').exists(): time.sleep(0.01)\n"
        "if os.environ['RANK'] == '1': sys.exit(3)\n"
        "time.sleep(600)\n"
    )
    with pytest.raises(devices.RankFailedError):
        run(code, str(tmp_path))
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "0").read_text()), 0)


def test_ctrl_c_reaches_each_process_once(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, time, pathlib\n"
        "mine, hits = pathlib.Path(sys.argv[1], os.environ['RANK']), []\n"
        "signal.signal(signal.SIGINT, lambda *_: hits.append(1))\n"
        "mine.touch()\n"
        "while not hits: time.sleep(0.01)\n"
        "time.sleep(0.3)\n"
        "mine.write_text(str(len(hits)))\n"
    )

    def interrupt() -> None:
        while not all((tmp_path / str(rank)).exists() for rank in range(2)):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=interrupt)
    thread.start()
    run(code, str(tmp_path))
    thread.join()
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == ["1", "1"]
    assert signal.getsignal(signal.SIGINT) is before


def test_who_starts_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (devices.must_launch(1), devices.must_launch(2)) == (False, True)
    assert devices.is_first()
    assert isinstance(join(), Alone)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert not devices.must_launch(1)
    assert not devices.must_launch(2)
    assert not devices.is_first()
    with pytest.raises(InputError, match="2 processes were started"):
        devices.must_launch(4)
