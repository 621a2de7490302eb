"""Starts the processes that train together on this machine, shows what the first one says, and ends all when one fails."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO

from whet.backends.processes import LOST, is_launched
from whet.errors import InputError, WhetError

WORK = "from whet.cli.devices import work; work()"
POLL_S = 0.05
GRACE_S = 10.0  # that the others have to end by themselves when one has failed, and then to end when they are told to
SHOWN = 4_000  # characters of what a process said last


class RankFailedError(WhetError):
    """One of the processes that train together has failed; what it said was shown."""

    def __init__(self, rank: int, code: int) -> None:
        self.exit_code = code if code > 0 else 128 - code
        how = f"ended with exit code {code}" if code > 0 else f"was ended by signal {-code}"
        super().__init__("--devices", f"process {rank} {how}, and the others were ended")


@dataclass
class Worker:
    """One process; what it says goes to a file, but for the first one."""

    rank: int
    process: subprocess.Popen[bytes]
    said: IO[bytes] | None

    def last_words(self) -> str:
        if self.said is None:
            return ""
        self.said.seek(0)
        return self.said.read().decode("utf-8", "replace")[-SHOWN:].strip()


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return os.environ.get("RANK", "0") == "0"


def must_launch(num_devices: int) -> bool:
    """Whether this process has to start the others: not where it is itself one of them."""
    if not is_launched():
        return num_devices > 1
    if num_devices > 1 and int(os.environ["WORLD_SIZE"]) != num_devices:
        raise InputError("--devices", f"is {num_devices}, and {os.environ['WORLD_SIZE']} processes were started", "Leave it out")
    return False


def launch(num: int, arguments: Sequence[str], command: Sequence[str] = (sys.executable, "-c", WORK)) -> None:
    """Run `whet ARGUMENTS` in `num` processes until all have ended; once one fails, all are.

    The first process inherits standard output and error. Ctrl-C is passed on, each once. Raises RankFailedError, or leaves with
    the first one's exit code where that one has said why.
    """
    with ExitStack() as stack:
        workers: list[Worker] = []
        stack.callback(_end, workers)
        surroundings = _surroundings(num)
        for rank in range(num):
            said = None if rank == 0 else stack.enter_context(tempfile.TemporaryFile())
            process = subprocess.Popen(  # noqa: S603 (our own interpreter)
                [*command, *arguments],
                env={**surroundings, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,  # or the terminal would send them Ctrl-C a second time
            )
            workers.append(Worker(rank, process, said))
        with _passing_on(workers):
            _watch(workers)


def work() -> None:
    """What each process does: the same command, until its launcher ends."""
    if sys.platform == "linux":
        import ctypes

        launcher = os.getppid()
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != launcher:
            sys.exit(1)
    from whet.cli.main import main

    sys.argv[0] = "whet"
    try:
        main()
    except SystemExit as ended:
        if ended.code in (None, 0):
            raise
        # At once: threads of the exchange with the others may abort on the way out, and hide the code that says why.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended.code if isinstance(ended.code, int) else 1)


def _surroundings(num: int) -> Mapping[str, str]:
    """What torch's `env://` reads. On a CPU the cores are shared out."""
    threads = max(1, _num_cores() // num)
    # Within one machine no other network is needed; gloo would look for one by the machine's name.
    network = {"GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo"}
    places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    sizes = {"WORLD_SIZE": str(num), "LOCAL_WORLD_SIZE": str(num)}
    return {"OMP_NUM_THREADS": str(threads), **network, **os.environ, **places, **sizes}


def _num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _watch(workers: Sequence[Worker]) -> None:
    """Wait for all; once one fails the others get a moment to end by themselves."""
    while not any(worker.process.poll() for worker in workers):
        if all(worker.process.poll() == 0 for worker in workers):
            return
        time.sleep(POLL_S)
    deadline = time.monotonic() + GRACE_S
    while time.monotonic() < deadline and any(worker.process.poll() is None for worker in workers):
        time.sleep(POLL_S)
    failed = [worker for worker in workers if worker.process.poll()]
    # Those that only lost another one are not to blame.
    blamed = [worker for worker in failed if worker.process.returncode != LOST] or failed
    _end(workers)
    first = blamed[0]
    if first.rank == 0 and first.process.returncode > 0:
        sys.exit(first.process.returncode)
    _tell(blamed)
    raise RankFailedError(first.rank, first.process.returncode)


def _tell(failed: Sequence[Worker]) -> None:
    """Show what failed processes said; several often say the same."""
    told: set[str] = set()
    for worker in failed:
        words = worker.last_words()
        if words and words not in told:
            told.add(words)
            print(*(f"process {worker.rank}: {line}" for line in words.splitlines()), sep="\n", file=sys.stderr)


def _end(workers: Sequence[Worker]) -> None:
    """End those that still run: first asked, then killed."""
    running = [worker.process for worker in workers if worker.process.poll() is None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + GRACE_S
    for process in running:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _passing_on(workers: Sequence[Worker]) -> Iterator[None]:
    """Within, Ctrl-C and a request to end go to the processes, which then decide."""

    def pass_on(signum: int, frame: object) -> None:
        for worker in workers:
            if worker.process.poll() is None:
                worker.process.send_signal(signum)

    before = {kind: signal.signal(kind, pass_on) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
