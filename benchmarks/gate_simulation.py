"""How often does the gate promote what it should not, and what it should? Simulated systems go through the real `judge`.

    python benchmarks/gate_simulation.py --quick

Systems answer simulated suites: right or wrong, or counts of records; examples alone, or in documents whose examples resemble
each other. A task part in four categories decides, a general part is watched. Nothing of the gate is replaced: only the scores
are drawn instead of read. The last line is one JSON object.

false_promotions: the share of promotions among candidates that are exactly as good as the live system, over all worlds and
sizes, one look; "worst" is the largest of any, which of so many is above the true one by chance. false_promotions_peeking:
the same where the suite grows and each candidate is judged up to four times, and promoted at the first look that would.
power: the smallest share of promotions in any world among candidates better by the stated effect, each first judged on a pilot,
then on as many examples as the gate asked for.
"""

import argparse
import functools
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import optimize, special

from whet.evaluate.gate import Facts, judge
from whet.evaluate.policy import GatePolicy, ImprovementPolicy
from whet.evaluate.results import Asked, Latency, Overlap, PartResult, SuiteResult, System
from whet.evaluate.statistics import wilson
from whet.evaluate.verdict import Verdict
from whet.records import Counts, Score

os.environ.setdefault("OMP_NUM_THREADS", "1")
CATEGORIES = ("annals", "letters", "laws", "poems")
EFFECT = 0.10  # relative; the gate asks to see 5 %
TOLERANCE = 0.1  # of a category
KEPT = 0.03  # of the general part
GOLD = 1.5  # records an example, on average
STEP = 40  # sizes are multiples of this: categories and documents stay equally large


@dataclass(frozen=True, slots=True)
class Simulated(SuiteResult):
    """A result whose scores are in memory."""

    answered: Mapping[str, Sequence[Score]] = field(default_factory=dict)

    def scores(self, part: str) -> list[Score]:
        return list(self.answered[part])


@dataclass(frozen=True, slots=True)
class World:
    """How the examples are: what is scored, how many share a document, how the systems resemble each other."""

    name: str
    kind: str
    per_document: int = 1
    trade: float = 1.0
    """Factor on the candidate's inventions: what it gains there it misses elsewhere, at the same F1."""


WORLDS = (
    World("right or wrong", "shares"),
    World("right or wrong, 5 a document", "shares", per_document=5),
    World("F1", "f1"),
    World("F1, 5 a document", "f1", per_document=5),
    World("F1, fewer inventions and more misses", "f1", trade=0.3),
)


@dataclass(frozen=True, slots=True)
class Quality:
    """How good a system is at a part: the quantile below which it is right, or its hits, and its inventions."""

    skill: float
    inventions: float = 0.3


def quality_for(world: World, figure: float, is_candidate: bool) -> Quality:
    """The quality whose true figure is this. What an example and a system add to its ease is standard normal together."""
    return _quality(world.kind, 0.3 * (world.trade if is_candidate else 1.0), round(figure, 6))


@functools.cache
def _quality(kind: str, inventions: float, figure: float) -> Quality:
    if kind == "shares":
        return Quality(float(special.ndtri(figure)))
    points, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()

    def miss(skill: float) -> float:
        found = GOLD * float(weights @ special.expit(1.5 * (skill + points)))
        return 2 * found / (GOLD + found + inventions) - figure

    return Quality(float(optimize.brentq(miss, -8, 8)), inventions)


def _latent(rng: np.random.Generator, num: int, per_document: int) -> np.ndarray:
    """How easy each example is for everybody: most of its variance, part of that the document's."""
    documents = np.repeat(rng.normal(size=-(-num // per_document)), per_document)[:num]
    own = rng.normal(size=num)
    share = 0.4 if per_document > 1 else 0.0
    return (0.85 * share) ** 0.5 * documents + (0.85 * (1 - share)) ** 0.5 * own


def _noise(rng: np.random.Generator, num: int, per_document: int) -> np.ndarray:
    """How easy it is for this system alone; documents suit one system more than the other."""
    documents = np.repeat(rng.normal(size=-(-num // per_document)), per_document)[:num]
    share = 0.4 if per_document > 1 else 0.0
    return (0.15 * share) ** 0.5 * documents + (0.15 * (1 - share)) ** 0.5 * rng.normal(size=num)


def _gold(rng: np.random.Generator, num: int) -> np.ndarray:
    return rng.poisson(GOLD, num)


def _counts(rng: np.random.Generator, latent: np.ndarray, gold: np.ndarray, of: Quality, per_document: int) -> np.ndarray:
    chance = special.expit(1.5 * (of.skill + latent + _noise(rng, len(latent), per_document)))
    found = rng.binomial(gold, chance)
    return np.stack([found, rng.poisson(of.inventions, len(latent)), gold - found], axis=1)


@functools.cache
def _as_counts(tp: int, fp: int, fn: int) -> Counts:
    return Counts(tp, fp, fn)


def draw_part(
    rng: np.random.Generator, world: World, start: int, stop: int, qualities: tuple[dict[str, Quality], dict[str, Quality]]
) -> list[list[Score]]:
    """Both systems' scores of examples `start` to `stop` of a part; a quality for each category."""
    num = stop - start
    latent = _latent(rng, num, world.per_document)
    categories = [CATEGORIES[(index // world.per_document) % len(CATEGORIES)] for index in range(start, stop)]
    gold = _gold(rng, num) if world.kind == "f1" else None
    sides = []
    for side in qualities:
        skills = np.array([side[name].skill for name in categories])
        if gold is None:
            rights = (latent + _noise(rng, num, world.per_document) < skills).tolist()
            rows = [
                Score(f"e{start + at}", "read", right=right, category=category)
                for at, (right, category) in enumerate(zip(rights, categories, strict=True))
            ]
        else:
            inventions = next(iter(side.values())).inventions
            counts = _counts(rng, latent + skills, gold, Quality(0.0, inventions), world.per_document).tolist()
            rows = [
                Score(f"e{start + at}", "read", counts={"record": _as_counts(*row)}, category=category)
                for at, (row, category) in enumerate(zip(counts, categories, strict=True))
            ]
        sides.append(rows)
    return sides


def _part(name: str, world: World, scores: Sequence[Score]) -> PartResult:
    is_f1, role = world.kind == "f1", "general" if name == "general" else "task"
    return PartResult(
        name, role, "extraction" if is_f1 else "free_qa", ("record", "f1") if is_f1 else ("exact", "accuracy"), str(len(scores)),
        Asked("p", "t", 64, "end of turn"), len(scores), len(scores), len(scores), 0.5, None, {},
        {"error": 0.0, "unread": 0.0, "ungrounded": 0.0}, Latency(None, None, None, None), overlap=Overlap(0, 0, (), None),
    )  # fmt: skip


GENERAL = World("general", "shares")


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is true of a candidate: its relative gain, and its absolute losses in the general part and in one category."""

    gain: float = 0.0
    forgets: float = 0.0
    category_loss: float = 0.0


Drawn = dict[str, list[list[Score]]]
"""Each part's scores, of the live system and of the candidate."""


def grow(
    rng: np.random.Generator, world: World, candidate: Candidate, drawn: Drawn, num: int, num_general: int, base: float = 0.6
) -> Drawn:
    """The suite grown to these sizes: what was asked before stays; no general part where `num_general` is 0."""
    live = dict.fromkeys(CATEGORIES, quality_for(world, base, False))
    ours = dict.fromkeys(CATEGORIES, quality_for(world, base * (1 + candidate.gain), True))
    if candidate.category_loss:
        ours[CATEGORIES[0]] = quality_for(world, base - candidate.category_loss, True)
    kept = dict.fromkeys(CATEGORIES, quality_for(GENERAL, 0.5, False))
    now = dict.fromkeys(CATEGORIES, quality_for(GENERAL, 0.5 - candidate.forgets, True))
    grown: Drawn = {}
    for name, of, qualities, size in (("exam", world, (live, ours), num), ("general", GENERAL, (kept, now), num_general)):
        before = drawn.get(name, [[], []])
        if size > len(before[0]):
            new = draw_part(rng, of, len(before[0]), size, qualities)
            grown[name] = [old + more for old, more in zip(before, new, strict=True)]
        elif before[0]:
            grown[name] = before
    return grown


def decide(world: World, drawn: Drawn, rules: GatePolicy, look: int = 1) -> Verdict:
    """What the gate says to these scores."""
    sides = [
        Simulated(
            Path(label), "simulated", "f", System("model", label, {}),
            {name: _part(name, world if name == "exam" else GENERAL, rows[at]) for name, rows in drawn.items()},
            answered={name: rows[at] for name, rows in drawn.items()},
        )
        for at, label in enumerate(("live", "candidate"))
    ]  # fmt: skip
    groups = {score.example_id: int(score.example_id[1:]) // world.per_document for score in drawn["exam"][0]}
    return judge(sides[1], sides[0], rules, Facts({"exam": groups} if world.per_document > 1 else {}, look))


def policy(resamples: int, **changes: Any) -> GatePolicy:
    improvement = ImprovementPolicy(at_least=0.05, kind="relative", effect=EFFECT)
    return GatePolicy(**{"improvement": improvement, "resamples": resamples, "looks": 1, **changes})


def promotes_no_better(world: World, num: int, at_least: float, rng: np.random.Generator, resamples: int) -> bool:
    """One candidate as good as live, one look at the whole alpha, nothing else asked for that could stop it."""
    asked = ImprovementPolicy(at_least=at_least, effect=EFFECT)
    drawn = grow(rng, world, Candidate(), {}, num, 0)
    return decide(world, drawn, policy(resamples, categories=None, improvement=asked)).decision == "promote"


def promotes_peeking(world: World, spending: Any, rng: np.random.Generator, resamples: int) -> bool:
    """One candidate as good as live, judged at 120, 240, 360, 480 examples of one growing suite; stops at a promotion.

    Any gain is enough, so that only the looks' levels stand between it and going live; spending None counts no looks.
    """
    rules = policy(resamples, categories=None, improvement=ImprovementPolicy(at_least=0.0, effect=EFFECT))
    if spending is not None:
        rules = rules.model_copy(update={"looks": 4, "spending": spending})
    drawn: Drawn = {}
    for look, num in enumerate((120, 240, 360, 480), 1):
        drawn = grow(rng, world, Candidate(), drawn, num, 0)
        if decide(world, drawn, rules, look if spending is not None else 1).decision == "promote":
            return True
    return False


def promotes_better(world: World, rng: np.random.Generator, resamples: int) -> tuple[bool, int, bool]:
    """One candidate better by the effect that lost nothing: a pilot, then the suite grown to what was asked for.

    Gives whether it was promoted, on how many examples of the task part, and whether it was refused.
    """
    rules, truth = policy(resamples, looks=2), Candidate(gain=EFFECT)
    drawn = grow(rng, world, truth, {}, 3 * STEP, 3 * STEP)
    found = decide(world, drawn, rules)
    if found.decision == "can't tell":
        drawn = grow(rng, world, truth, drawn, asked_for(found, "exam"), asked_for(found, "general"))
        found = decide(world, drawn, rules, 2)
    return found.decision == "promote", len(drawn["exam"][0]), found.decision == "refuse"


def asked_for(verdict: Verdict, part: str) -> int:
    """Examples that a part needs for all its checks, its four categories equally large."""
    num = 3 * STEP
    for check in verdict.checks:
        if check.needed and part in check.name:
            num = max(num, check.needed * (4 if check.name.count(",") == 2 else 1))
    return -(-num // STEP) * STEP


def promotes_forgetful(world: World, candidate: Candidate, rng: np.random.Generator, resamples: int) -> bool:
    """One candidate better by a lot that lost elsewhere, at a size that promotes most good ones."""
    drawn = grow(rng, world, candidate, {}, 1_000, 3_000)
    return decide(world, drawn, policy(resamples)).decision == "promote"


Task = tuple[str, Callable[..., Any], tuple[Any, ...], float]


def _work(job: tuple[Callable[..., Any], tuple[Any, ...], int, int, int]) -> list[Any]:
    call, given, seed, num, resamples = job
    rng = np.random.default_rng(seed)
    return [call(*given, rng, resamples) for _ in range(num)]


def run(tasks: Sequence[Task], processes: int, resamples: int, seed: int) -> dict[str, list[Any]]:
    """The outcomes of each task's simulations, in pieces over the processes; the same for any number of them."""
    pieces = 4
    jobs = [
        (call, given, seed * 1_000_003 + 7 * at + piece, max(1, round(num / pieces)), resamples)
        for at, (_, call, given, num) in enumerate(tasks)
        for piece in range(pieces)
    ]
    with multiprocessing.Pool(processes) as pool:
        done = pool.map(_work, jobs, chunksize=1)
    return {
        name: [row for piece in done[pieces * at : pieces * at + pieces] for row in piece] for at, (name, *_) in enumerate(tasks)
    }


def say(name: str, outcomes: Sequence[bool]) -> float:
    share, around = sum(outcomes) / len(outcomes), wilson(sum(outcomes), len(outcomes))
    print(f"{name:<62} {100 * share:5.1f} %  [{100 * around.low:.1f}, {100 * around.high:.1f}]  of {len(outcomes)}", flush=True)
    return share


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer simulations: within 5 minutes on 2 cores")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--scale", type=float, help="times as many simulations as --quick (6 without it)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    scale = options.scale or (1 if options.quick else 6)
    resamples = 999 if options.quick else 1_999
    nulls: list[Task] = [
        (f"no better, {world.name}, {num} examples", promotes_no_better, (world, num, 0.05), 300 * scale)
        for world in WORLDS for num in (40, 120, 400)
    ]  # fmt: skip
    bare: list[Task] = [
        (f"no better, {world.name}, 400, any gain asked", promotes_no_better, (world, 400, 0.0), 300 * scale) for world in WORLDS
    ]
    peeks: list[Task] = [
        (f"no better, four looks ({spending}), {world.name}", promotes_peeking, (world, spending), 200 * scale)
        for world in WORLDS[:4] for spending in ("even", "late")
    ]  # fmt: skip
    naive: list[Task] = [
        ("no better, four looks that nobody counts, right or wrong", promotes_peeking, (WORLDS[0], None), 200 * scale)
    ]
    powers: list[Task] = [(f"better by 10 %, {world.name}", promotes_better, (world,), 80 * scale) for world in WORLDS]
    losses: list[Task] = [
        (f"better by 20 %, {words}", promotes_forgetful, (WORLDS[0], truth), 100 * scale)
        for words, truth in (
            ("general part lost its tolerance (0.03)", Candidate(0.2, KEPT)),
            ("general part lost twice that", Candidate(0.2, 2 * KEPT)),
            ("one category lost its tolerance (0.10)", Candidate(0.2, 0.0, TOLERANCE)),
            ("one category lost twice that", Candidate(0.2, 0.0, 2 * TOLERANCE)),
            ("nothing lost", Candidate(0.2)),
        )
    ]
    found = run([*nulls, *bare, *peeks, *naive, *powers, *losses], options.processes, resamples, options.seed)
    shares = {name: say(name, found[name]) for name, *_ in [*nulls, *bare, *peeks, *naive]}
    sizes = {}
    for name, *_ in powers:
        shares[name] = say(name, [row[0] for row in found[name]])
        sizes[name] = float(np.median([row[1] for row in found[name]]))
        print(f"{'':<62} median size {sizes[name]:.0f}, refused {np.mean([row[2] for row in found[name]]):.1%}")
    shares |= {name: say(name, found[name]) for name, *_ in losses}

    def pooled(tasks: Sequence[Task]) -> float:
        return float(np.mean([shares[name] for name, *_ in tasks]))

    print(json.dumps({
        "false_promotions": pooled(nulls),
        "false_promotions_worst": max(shares[name] for name, *_ in nulls),
        "false_promotions_any_gain": pooled(bare),
        "false_promotions_peeking": pooled(peeks),
        "false_promotions_peeking_worst": max(shares[name] for name, *_ in peeks),
        "false_promotions_uncounted_peeking": shares[naive[0][0]],
        "power": min(shares[name] for name, *_ in powers),
        "power_mean": float(np.mean([shares[name] for name, *_ in powers])),
        "forgetting_promoted": max(shares[name] for name, *_ in losses[:-1]),
        "not_forgetting_promoted": shares[losses[-1][0]],
        "simulations": sum(len(rows) for rows in found.values()),
        "seconds": round(time.monotonic() - began, 1),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
