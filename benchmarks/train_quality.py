"""Validation loss of whet and of plain transformers with PEFT at equal learnt tokens, on the base that ships with whet.

Both start from the same adapter and take the same rows in the same order, in the same steps, with the same optimiser. whet
packs them behind their shared prefix; transformers' Trainer pads them. The curves must lie on each other. The last line is a
JSON object: largest_difference of the two mean losses a learnt token at any measured step, and the first and last losses.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from peers import PeerSettings
from random_models import Shape
from systems import Job, start, write_rows
from train_speed import num_cores
from workloads import DATA, make_workload

from whet.models.base_model import EMBEDDED_PATH
from whet.storage import read_json

Curve = Sequence[Sequence[float]]
SAME = 0.01  # nats; float32 sums in another order drift apart by less
COLOURS = ("#1a66a8", "#d1620b")


def base_shape() -> Shape:
    """The sizes in the embedded base's config."""
    config = read_json(EMBEDDED_PATH / "config.json")
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size")
    return Shape(*(config[name] for name in names))


def draw(curves: dict[str, Curve], x_label: str) -> str:
    """The curves as an SVG document of 640 x 400."""
    xs = [point[0] for curve in curves.values() for point in curve]
    ys = [point[1] for curve in curves.values() for point in curve]
    low, high = min(ys), max(ys)

    def place(x: float, y: float) -> tuple[float, float]:
        return 60 + 560 * x / max(xs), 350 - 320 * (y - low) / ((high - low) or 1)

    parts = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 400" font-family="sans-serif" font-size="12">']
    for number, ((name, curve), colour) in enumerate(zip(curves.items(), COLOURS, strict=True)):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in curve))
        # The second line is dashed and thinner: a curve that lies on the first one still shows.
        look = "" if number == 0 else ' stroke-dasharray="3 5"'
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{5 - 3 * number}"{look}/>')
        parts.append(f'<text x="430" y="{50 + 18 * number}" fill="{colour}">{name}</text>')
    parts += [f'<text x="8" y="{place(0, y)[1]:.0f}">{y:.3f}</text>' for y in (low, high)]
    parts.append(f'<text x="60" y="385">0 to {max(xs):,.0f} {x_label}; mean loss a learnt token, held out, in nats</text></svg>')
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller steps: within 5 minutes on two cores")
    parser.add_argument("--workload", default="b", choices=["a", "b", "d"])
    parser.add_argument("--system", default="plain", choices=["plain", "trl"], help="the peer")
    parser.add_argument("--rows", type=int, help="rows of a step")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=num_cores())
    parser.add_argument("--svg", type=Path, help="write the curves into this file")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the corpora")
    args = parser.parse_args()
    rows, steps = args.rows or (16 if args.quick else 32), args.steps or (30 if args.quick else 120)
    every = max(1, steps // 12)
    workload = make_workload(args.workload, rows * steps, 24 if args.quick else 96, args.data, Path())
    print(workload.describe(), flush=True)
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        shutil.copytree(EMBEDDED_PATH, folder / "model")
        path = folder / "rows.json"
        picked = [workload.train[at * rows : (at + 1) * rows] for at in range(steps)]
        write_rows(path, picked, picked[0], workload.held_out)
        common = {"rows": str(path), "learning_rate": args.learning_rate, "threads": args.threads, "every": every}
        start(Job("adapt", root, asdict(base_shape()), threads=args.threads))
        ours = start(Job("whet", root, asdict(base_shape()), **common))
        peer = PeerSettings(args.system, 4 if args.quick else 8)
        theirs = start(Job("peer", root, asdict(base_shape()), peers=(asdict(peer),), **common))
    assert ours["learnt"] == theirs["learnt"], "both learn the same tokens"
    learnt = [sum(ours["learnt"][:step]) for step, _ in ours["curve"]]
    print(f"{ours['layout']}\n{'step':>5} {'learnt':>8} {'whet':>9} {peer.name():>16} {'difference':>11}")
    differences = []
    for tokens, (step, one), (_, other) in zip(learnt, ours["curve"], theirs["curve"], strict=True):
        differences.append(abs(one - other))
        print(f"{step:>5} {tokens:>8} {one:>9.5f} {other:>16.5f} {one - other:>11.1e}")
    if args.svg:
        named = {"whet": ours["curve"], f"transformers ({peer.name()})": theirs["curve"]}
        curves = {name: [(learnt[at], loss) for at, (_, loss) in enumerate(curve)] for name, curve in named.items()}
        args.svg.write_text(draw(curves, "learnt tokens"), encoding="utf-8")
    said = {"largest_difference": max(differences), "first_loss": ours["curve"][0][1], "last_loss": ours["curve"][-1][1]}
    print(json.dumps(said | {"peer_last_loss": theirs["curve"][-1][1], "learnt_tokens": learnt[-1]}))
    sys.exit(0 if max(differences) < SAME else 1)


if __name__ == "__main__":
    main()
