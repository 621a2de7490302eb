"""What `whet extract` takes for one endless line and for very many tiny files: time, memory, and what a second run reads.

The function behind the command reads them with a scripted engine, so that what is measured is whet and not a model: finding,
decoding, cutting, asking, grounding, keeping in the state, writing the output. Each measurement is a process of its own.

- one line of Chinese with a name in about every sixty characters, without any line feed; and one without any sentence end;
- tiny files of some forty bytes, one in ten empty, one in fifty binary, in folders of a thousand and all in one folder;
- the same files killed by SIGKILL in the middle and taken up; run again unchanged; and grown by one in a hundred.

Times are CPU seconds, so that what else the machine does counts little. Memory is the highest resident memory (VmHWM) less what
the process held after a first small extraction. Records are checked: every marked name is in the output once, and the output of
the killed extraction is that of the undisturbed one, byte for byte.

The last line is a JSON object: "line" and "endless": mb, seconds_per_mb, peak_mb; "files" and "one_folder": number, us_per_file,
peak_mb; "killed": is_same, asked_twice; "again" and "grown": us_per_file, mb_read, asked, peak_mb.
"""

import argparse
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from whet.engines.scripted import ScriptedEngine
from whet.extract.targets import Targets
from whet.pipeline.answering import Answering
from whet.pipeline.extract_step import Order, extract
from whet.recipe import recipe_from
from whet.records import Request
from whet.storage import write_json

SIGNS = "升行在監察御史程富爲大理寺左少卿命平江伯陳瑄充總兵官鎮守淮安督漕運賜衣襲鈔五千貫宣德九年三月丁亥朔上御奉天門視朝"
NAME = re.compile("<([^<>]+)>")
A_FOLDER = 1000  # files of a folder
EMPTY, BINARY = 10, 50  # one file in so many is none


def write_line(path: Path, num_bytes: int, ends: str) -> int:
    """One line of so many bytes; `ends` stands behind some of its stretches. Gives the names in it."""
    rng, left, num = random.Random(0), num_bytes, 0
    with path.open("wb") as file:
        while left > 0:
            words = "".join(rng.choices(SIGNS, k=rng.randint(20, 80)))
            raw = f"{words}<{rng.choice(SIGNS)}{num:06d}>{ends}".encode()
            file.write(raw)
            left -= len(raw)
            num += 1
    return num


def write_files(folder: Path, first: int, number: int, a_folder: int) -> int:
    """Tiny files; gives how many of them hold a name."""
    num_named = 0
    for at in range(first, first + number):
        if at % a_folder == 0 or at == first:
            (folder / f"{at // a_folder:04d}").mkdir(parents=True, exist_ok=True)
        raw = b"" if at % EMPTY == 3 else bytes(range(32)) if at % BINARY == 7 else f"是日Gong<蹇義{at}>卒。\n".encode()
        num_named += b"<" in raw and at % BINARY != 7
        (folder / f"{at // a_folder:04d}" / f"{at:07d}.txt").write_bytes(raw)
    return num_named


def write_run(folder: Path) -> Path:
    """A run folder as far as extracting with a scripted engine needs one."""
    raw = {
        "name": "marked",
        "task": {"kind": "extraction", "fields": [{"name": "name"}]},
        "data": {"sources": [{"reader": "inline", "path": "a.txt", "tags": {"name": {"tag": "P"}}}]},
    }
    write_json(folder / "recipe.json", recipe_from(raw, [], "benchmark", folder).model_dump(mode="json"))
    return folder


def work(run: Path, out: Path, log: Path, inputs: list[str]) -> dict[str, Any]:
    """Extract in this process. Each chunk that is asked is a byte in the log."""
    asked = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def reply(request: Request) -> str:
        os.write(asked, b".")
        names = NAME.findall(request.messages[-1].content.partition("\n\n")[2])
        return json.dumps([{"name": name} for name in names], ensure_ascii=False, separators=(",", ":"))

    who = Answering({"server": "scripted"}, lambda: nullcontext(ScriptedEngine("scripted", reply)))
    return dict(extract(Order(tuple(inputs), run, Targets(out)), answering=who).figures)


def _status(name: str) -> int:
    """A figure of this process's memory in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def _bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def measure_here(run: str, out: str, log: str, *inputs: str) -> None:
    """In a process of its own: one extraction, its time, memory and what it read, as JSON."""
    with tempfile.TemporaryDirectory() as first:
        (Path(first) / "a.txt").write_text("是日Gong<蹇義>卒。" * 100, encoding="utf-8")
        work(Path(run), Path(first) / "out.jsonl", Path(first) / "log", [str(Path(first) / "a.txt")])
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, read, began = _status("VmRSS"), _bytes_read(), time.perf_counter()
    cpu = time.process_time()
    figures = work(Path(run), Path(out), Path(log), list(inputs))
    found = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}
    found |= {"peak_mb": (_status("VmHWM") - before) / 1e6, "mb_read": (_bytes_read() - read) / 1e6}
    print(json.dumps(found | {"asked": figures["chunks"]["asked"], "records": figures["records"]["written"]}))


class Bench:
    """A folder, and measurements in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run = folder, write_run(folder / "run")

    def start(self, out: str, *inputs: Path) -> subprocess.Popen[str]:
        words = [self.run, self.folder / out, self.folder / f"{out}.log", *inputs]
        command = [sys.executable, __file__, "--here", *map(str, words)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def measure(self, out: str, *inputs: Path, records: int) -> dict[str, Any]:
        process = self.start(out, *inputs)
        said, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"the extraction of {inputs} ended with {process.returncode}")
        found: dict[str, Any] = json.loads(said.splitlines()[-1])
        if found["records"] != records:
            raise SystemExit(f"{inputs}: {found['records']} records, {records} names are in it")
        return found

    def num_asked(self, out: str) -> int:
        log = self.folder / f"{out}.log"
        return log.stat().st_size if log.exists() else 0

    def lines(self, what: str, sizes: list[int], ends: str) -> dict[str, list[float]]:
        """One line, of growing size."""
        found = []
        for mb in sizes:
            path = self.folder / f"{what}{mb}.txt"
            num = write_line(path, mb * 1_000_000, ends)
            found.append(self.measure(f"{what}{mb}.jsonl", path, records=num) | {"mb": mb})
            self.say(f"{what}, {mb} MB in one line", found[-1], found[-1]["cpu"] / mb, "s/MB")
        return {"mb": sizes} | _columns(found, seconds_per_mb="mb")

    def files(self, what: str, numbers: list[int], a_folder: int) -> dict[str, list[float]]:
        """Tiny files, a growing number."""
        found = []
        for number in numbers:
            folder = self.folder / f"{what}{number}"
            named = write_files(folder, 0, number, a_folder)
            found.append(self.measure(f"{what}{number}.jsonl", folder, records=named) | {"number": number})
            self.say(f"{what}, {number:,} files", found[-1], 1e6 * found[-1]["cpu"] / number, "us/file")
        return {"number": numbers} | _columns(found, us_per_file="number")

    def killed(self, number: int) -> dict[str, Any]:
        """The files of `files` once more, killed at a third and at two thirds of its chunks."""
        whole, folder = self.folder / f"files{number}.jsonl", self.folder / f"files{number}"
        total, kills = self.num_asked(whole.name), 0
        for goal in (total // 3, 2 * total // 3):
            process = self.start("killed.jsonl", folder)
            while process.poll() is None and self.num_asked("killed.jsonl") < goal:
                time.sleep(0.01)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
            process.communicate()
        process = self.start("killed.jsonl", folder)
        process.communicate()
        is_same = (self.folder / "killed.jsonl").read_bytes() == whole.read_bytes()
        if not is_same:
            raise SystemExit("the output of the killed extraction is another one")
        found = {"kills": kills, "is_same": is_same, "asked_twice": self.num_asked("killed.jsonl") - total}
        print(f"killed {kills} times of {number:,} files: output the same: {is_same}, {found['asked_twice']} chunks asked twice")
        return found

    def again(self, number: int) -> dict[str, Any]:
        """Run again, unchanged and then grown."""
        folder, out = self.folder / f"files{number}", f"files{number}.jsonl"
        named = sum(1 for _ in (self.folder / out).open("rb"))
        found = {}
        for what, more in (("again", 0), ("grown", number // 100)):
            named += write_files(folder, number, more, A_FOLDER)
            found[what] = self.measure(out, folder, records=named)
            found[what]["us_per_file"] = round(1e6 * found[what]["cpu"] / (number + more), 1)
            self.say(f"{what}: {number + more:,} files, {more:,} new", found[what], found[what]["us_per_file"], "us/file")
            print(f"{'':44} {found[what]['asked']:,} chunks asked, {found[what]['mb_read']:.1f} MB read")
        return {what: {name: row[name] for name in ("us_per_file", "mb_read", "asked", "peak_mb")} for what, row in found.items()}

    def say(self, what: str, found: dict[str, Any], pace: float, unit: str) -> None:
        print(f"{what:44} {found['seconds']:7.1f} s, CPU {pace:8.3g} {unit}, peak {found['peak_mb']:6.1f} MB", flush=True)


def _columns(found: list[dict[str, Any]], **per: str) -> dict[str, list[float]]:
    (name, unit), scale = next(iter(per.items())), 1e6 if next(iter(per)).startswith("us") else 1
    paces = [round(scale * row["cpu"] / row[unit], 3) for row in found]
    return {name: paces, "peak_mb": [round(row["peak_mb"], 1) for row in found]}


def _sizes(largest: int) -> Iterator[int]:
    yield from (largest // 10, largest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100,000 files in place of 1,000,000")
    parser.add_argument("--mb", type=int, default=50, help="size of the line")
    parser.add_argument("--files", type=int, help="number of files")
    parser.add_argument("--part", choices=["lines", "files", "one_folder"], help="measure this alone")
    parser.add_argument("--folder", type=Path, help="where to put them; a passing folder otherwise")
    parser.add_argument("--here", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        measure_here(*given.here)
        return
    number = given.files or (100_000 if given.quick else 1_000_000)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        bench, found = Bench(Path(folder)), dict[str, Any]()
        if given.part in (None, "lines"):
            found["line"] = bench.lines("line", list(_sizes(given.mb)), "。")
            found["endless"] = bench.lines("endless", list(_sizes(given.mb)), "")
        if given.part in (None, "files"):
            found["files"] = bench.files("files", list(_sizes(number)), A_FOLDER)
        if given.part in (None, "one_folder"):
            found["one_folder"] = bench.files("one_folder", list(_sizes(number)), 10 * number)
        if given.part is None:
            found["killed"] = bench.killed(number)
            found |= bench.again(number)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
