"""Time and peak memory of a data build from MingOfficial-like tables of growing size.

Each size is built in a process of its own. `--quick` stays within 5 minutes on two busy cores. The last line is a JSON
object: rows (examples read from the largest table), seconds (by the clock), cpu_seconds, peak_mib, and exponent, the
slope of log cpu_seconds over log rows: 1 is linear. Other work on the machine stretches the clock, not the CPU's time.
"""

import argparse
import csv
import itertools
import json
import math
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = (15_444, 30_888, 61_777, 123_554)
QUICK_SECONDS = 240.0
SURNAMES = "趙錢孫李周吳鄭王馮陳褚衛蔣沈韓楊朱秦尤許何呂施張孔曹嚴華金魏陶姜"
OFFICES = (
    "監察御史 都指揮使 布政使 按察使 知府 參政 主事 郎中 給事中",
    "少卿 寺丞 都督僉事 參將 總兵官 侍郎 尚書 巡撫",
)
VERBS = "陞調命以改奏勑遣召擢謫賜"
CHARS = [chr(code) for code in range(0x4E00, 0x4E00 + 3000)]
WEIGHTS = list(itertools.accumulate(1 / (rank + 20) for rank in range(len(CHARS))))


def write_table(path: Path, num_texts: int, seed: int = 0) -> None:
    """A CSV with `num_texts` distinct tagged texts, eight to a row.

    As in the Ming Shilu some come twice: one in twenty is nearly an earlier text, one in a hundred has only other
    punctuation, and one in ten stands under a second official too.
    """
    rng = random.Random(seed)
    recent: list[str] = []
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["Name", "Related Texts"])
        for start in range(0, num_texts, 8):
            texts = [distinct_text(rng, recent) for _ in range(start, min(start + 8, num_texts))]
            repeated = rng.sample(recent, k=1) if start and rng.random() < 0.8 else []
            entries = [(f"t{start + at}", "明實錄", text) for at, text in enumerate([*texts, *repeated])]
            rows.writerow([f"官{start}", str(entries)])
            recent = [*recent, *texts][-800:]


def distinct_text(rng: random.Random, recent: list[str]) -> str:
    chance = rng.random()
    if recent and chance < 0.05:
        return rng.choice(recent) + "".join(rng.choices(CHARS, k=3))
    if recent and chance < 0.06:
        return "　" * rng.randint(1, 9) + rng.choice(recent) + "。" * rng.randint(1, 99)
    return tagged_text(rng)


def tagged_text(rng: random.Random) -> str:
    """Running text of 30 to 200 characters with one to three tagged officials in it; one in fifty has none."""
    length = rng.randint(25, 150)
    filler = rng.choices(CHARS, cum_weights=WEIGHTS, k=length)
    for at in range(9, length, rng.randint(7, 14)):
        filler[at] = "，" if rng.random() < 0.7 else "。"
    parts = ["".join(filler)]
    for _ in range(rng.randint(1, 3) if rng.random() > 0.02 else 0):
        name = rng.choice(SURNAMES) + "".join(rng.choices(CHARS, k=rng.randint(1, 2)))
        office = f"<O>{rng.choice(' '.join(OFFICES).split())}</O>" if rng.random() < 0.8 else ""
        rest = "".join(rng.choices(CHARS, cum_weights=WEIGHTS, k=rng.randint(2, 12)))
        parts.append(f"{rng.choice(VERBS)}{office}<P>{name}</P>{rest}。")
    rng.shuffle(parts)
    return "".join(parts)


def build_once(table: Path, out: Path) -> None:
    """Build the table; print the manifest's funnel, the seconds and the peak memory of this process as JSON."""
    from whet.config import load
    from whet.data.build import DataSettings, build
    from whet.tasks.extraction import Extraction, ExtractionSettings, FieldSettings

    settings = load(DataSettings, {"sources": [{"reader": "ming_csv", "path": table.name}]}, {}, "benchmark")
    fields = (FieldSettings(name="name"), FieldSettings(name="rank", nullable=True))
    task = Extraction(ExtractionSettings(fields=fields))
    start, cpu_start = time.perf_counter(), time.process_time()
    manifest = build(settings, task, out, lambda example: len(example.text), 2048, None, table.parent)
    said = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu_start}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said["peak_mib"] = peak / 1024 if sys.platform != "darwin" else peak / 2**20
    print(json.dumps(said | {"read": manifest.funnel["read"], "leaks": manifest.leaks["num_left"]}))


def measure(num_texts: int, folder: Path) -> dict[str, float]:
    """Rows, seconds and peak memory in MiB of one build in a process of its own."""
    table = folder / f"ming{num_texts}.csv"
    write_table(table, num_texts)
    command = [sys.executable, __file__, "--build", str(table), "--out", str(folder / "data")]
    said = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
    assert said.pop("read") == num_texts
    assert said.pop("leaks") == 0
    table.unlink()
    return {"rows": num_texts} | said


def slope(measured: list[dict[str, float]]) -> float:
    """Least-squares slope of log CPU seconds over log rows."""
    points = [(math.log(each["rows"]), math.log(each["cpu_seconds"])) for each in measured]
    x_mean, y_mean = (sum(column) / len(points) for column in zip(*points, strict=True))
    return sum((x - x_mean) * (y - y_mean) for x, y in points) / sum((x - x_mean) ** 2 for x, _ in points)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="leave out sizes that would take it past 5 minutes")
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.build:
        build_once(args.build, args.out)
        return
    measured: list[dict[str, float]] = []
    start, took = time.perf_counter(), 0.0
    print(f"{'rows':>8} {'seconds':>8} {'CPU s':>8} {'rows/CPU s':>10} {'peak MiB':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            before = time.perf_counter()
            # Each size takes about twice the one before it; a factor of 2.5 leaves room for a busy machine.
            if args.quick and len(measured) > 1 and before - start + 2.5 * took > QUICK_SECONDS:
                print(f"{size:>8} left out: it would not fit into 5 minutes")
                break
            measured.append(last := measure(size, Path(folder)))
            took = time.perf_counter() - before
            rate = last["rows"] / last["cpu_seconds"]
            times = f"{last['seconds']:>8.1f} {last['cpu_seconds']:>8.1f} {rate:>10.0f}"
            print(f"{size:>8} {times} {last['peak_mib']:>9.0f}", flush=True)
    rounded = {name: round(value, 1) for name, value in measured[-1].items()}
    print(json.dumps(rounded | {"exponent": round(slope(measured), 3)}))


if __name__ == "__main__":
    main()
