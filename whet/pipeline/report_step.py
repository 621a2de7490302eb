"""The report step: gathers what the other steps left and writes report.html and metrics.json."""

import datetime
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from whet.config import explain
from whet.data.build import Manifest
from whet.engines.http import HttpSettings
from whet.evaluate.calibration import Calibration
from whet.evaluate.compare import Comparison, compare
from whet.evaluate.judging import SIDE_RESAMPLES, Doubt, rate_interval
from whet.evaluate.report import (
    Estimate,
    FieldScore,
    LeakCount,
    LeakPair,
    Losses,
    Piece,
    Proof,
    Report,
    SettingRow,
    Split,
    Stage,
    metrics_json,
    write_report,
)
from whet.evaluate.report import System as Column
from whet.evaluate.run import read_completions
from whet.evaluate.shares import share_interval
from whet.evaluate.shown import draw, show
from whet.evaluate.statistics import score_intervals
from whet.evaluate.sureness import SAME_SPLIT, Sureness, assess, gather, unmeasured
from whet.models.adapter import open_adapter
from whet.pipeline import calibrate_step
from whet.pipeline.bench import Bench
from whet.pipeline.evaluate_step import System
from whet.records import Example, Score
from whet.storage import canonical, hash_text, write_json
from whet.tasks.extraction import Extraction

NUM_SHOWN = 20
NOTES = {
    "rejected": "rows that could not be read",
    "not_adopted": "rows that are no examples of this task",
    "empty": "no text or no value",
    "over_long": "longer than train.max_length",
    "ungrounded": "gold that is not in the text",
    "choice": "gold outside the closed set",
    "exact_duplicate": "text and gold seen before",
    "conflicting": "text seen before with another gold",
    "near_duplicate": "nearly a text seen before",
    "negative": "above data.clean.negative_share",
    "moved_for_leak": "put into train by the leak check; counted there too",
}


def run(
    bench: Bench,
    manifest: Manifest,
    trained: dict[str, Any] | None,
    examples: list[Example],
    systems: list[System],
    calibration: Calibration | None = None,
) -> Report:
    """Write the report of a run; gives what it says."""
    bench.watch.begin("report", False)
    # Examples of one document are not independent: whole groups are resampled and swapped.
    groups = {example.id: example.group for example in examples}
    comparisons = _compare(bench, systems, groups)
    last = systems[-1].evaluation
    report = Report(
        title=bench.recipe.name,
        created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        headline=last.total.headline,
        systems=tuple(_column(bench, system, groups) for system in systems),
        comparisons=comparisons,
        provenance=tuple(_provenance(bench, manifest, trained)),
        funnel=tuple(_funnel(manifest)),
        splits=tuple(_splits(manifest)),
        leaks=tuple(_leaks(manifest)),
        leak_pairs=tuple(_leak_pairs(manifest)),
        proofs=tuple(Proof(**proof) for proof in trained["proofs"]) if trained else (),
        rendered=tuple(Piece(text, is_learnt) for text, is_learnt in trained["shown"]) if trained else (),
        losses=_losses(trained),
        letters=last.total.extra.get("gold_letters", {}),
        best_constant=_best_constant(last.total.extra),
        num_distinct=last.total.extra.get("num_distinct"),
        examples=tuple(_shown(examples, systems[-1])),
        settings=tuple(SettingRow(*row) for row in explain(bench.recipe)),
        confidence=bench.recipe.evaluate.confidence,
        sure=_sure(bench, examples, calibration),
    )
    write_report(bench.folder.path / "report.html", report)
    write_json(bench.folder.path / "metrics.json", metrics_json(report))
    return report


def _sure(bench: Bench, examples: list[Example], calibration: Calibration | None) -> Sureness | None:
    """The specialist's calibration on the evaluated examples, from the answers that the evaluate step kept."""
    if calibration is None or not isinstance(bench.task, Extraction):
        return None
    settings = bench.recipe.evaluate
    if settings.split == calibrate_step.SPLIT:
        return unmeasured(calibration, calibration.reason or SAME_SPLIT)
    names = [field.name for field in bench.task.fields]
    claims = gather(examples, read_completions(bench.folder.answers("specialist")), bench.task, names)
    return assess(calibration, claims, names, settings.confidence, settings.seed)


def _compare(bench: Bench, systems: list[System], groups: dict[str, str]) -> tuple[Comparison, ...]:
    """The specialist held against each other system."""
    specialist = next((system.evaluation for system in systems if system.role == "specialist"), None)
    if specialist is None:
        return ()
    settings = bench.recipe.evaluate
    return tuple(
        compare(
            system.evaluation.scores,
            specialist.scores,
            specialist.total.headline,
            names=(system.evaluation.name, specialist.name),
            groups=groups,
            confidence=settings.confidence,
            seed=settings.seed,
            num_resamples=settings.resamples,
        )
        for system in systems
        if system.role != "specialist"
    )


def _column(bench: Bench, system: System, groups: dict[str, str]) -> Column:
    """One system's column: its figures with intervals."""
    settings, found = bench.recipe.evaluate, system.evaluation
    total = found.total
    measure, figure = total.headline
    scored = [score for score in found.scores if score.status != "error"]
    side = Doubt(settings.confidence, settings.seed, min(settings.resamples, SIDE_RESAMPLES))
    common: dict[str, Any] = {
        "name": found.name,
        "role": system.role,
        "rates": total.rates,
        "rate_intervals": {name: around for name in total.rates if (around := rate_interval(name, found.scores, groups, side))},
        "seconds": found.seconds,
        "num_asked": total.num_asked,
    }
    if figure == "accuracy":
        return Column(
            score=_estimate(found.scores, groups, settings.confidence),
            categories={
                name: _estimate(
                    [score for score in found.scores if (score.category or "all") == name], groups, settings.confidence
                )
                for name in total.extra.get("by_category", {})
            },
            letters=total.extra.get("letters", {}),
            **common,
        )
    intervals = {
        name: score_intervals(
            [score.counts[name] for score in scored],
            groups=[groups[score.example_id] for score in scored],
            confidence=settings.confidence,
            seed=settings.seed,
            num_resamples=side.resamples if name != measure else settings.resamples,
        )
        for name in total.measures
    }
    whole, whole_figures = intervals[measure], total.measures[measure]
    return Column(
        score=Estimate(whole_figures["f1"], whole.f1, len(scored)),
        precision=Estimate(whole_figures["precision"], whole.precision),
        recall=Estimate(whole_figures["recall"], whole.recall),
        fields={
            name: FieldScore(
                part["precision"],
                part["recall"],
                part["f1"],
                intervals[name].f1,
                intervals[name].precision,
                intervals[name].recall,
            )
            for name, part in total.measures.items()
            if name != measure
        },
        **common,
    )


def _estimate(scores: Sequence[Score], groups: Mapping[str, str], confidence: float) -> Estimate:
    """The share of right answers among those that are right or wrong."""
    judged = [score for score in scores if score.right is not None]
    rights = [bool(score.right) for score in judged]
    around = share_interval(rights, confidence, [groups[score.example_id] for score in judged])
    return Estimate(sum(rights) / len(rights) if rights else 0.0, around, len(rights))


def _provenance(bench: Bench, manifest: Manifest, trained: dict[str, Any] | None) -> list[tuple[str, str]]:
    rows = [("recipe", hash_text(canonical(bench.recipe.model_dump(mode="json")))), ("data split", manifest.split_hash)]
    for source in manifest.sources:
        rows += [(f"source {name}", digest) for name, digest in list(source["files"].items())[:12]]
    if bench.has_base:
        rows += [("base", f"{bench.recipe.base} {bench.base.fingerprint}")]
    if isinstance(bench.recipe.engine, HttpSettings):
        rows += [("server", f"{bench.recipe.engine.model or 'its model'} at {bench.recipe.engine.url}")]
    if bench.recipe.train is not None and bench.folder.adapter.is_dir():
        rows.append(("adapter", open_adapter(bench.folder.adapter, bench.base).fingerprint))
    if trained:
        result = trained["result"]
        rows += [
            (
                "training",
                f"{result['ended']} after {result['steps']} of {result['num_steps']} steps, best at step {result['best_step']}, "
                f"{result['seconds']:.0f} s",
            ),
            ("rows", trained["layout"]),
            ("tokens", f"{result['num_tokens']} of examples, {result['num_computed']} computed, {result['num_learnt']} learnt"),
            ("seed", str(bench.recipe.train.seed if bench.recipe.train else "")),
        ]
    packages = ["whet", *(("torch", "transformers", "peft") if bench.has_base else ("httpx2",))]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    return [
        *rows,
        ("versions", f"{versions}, Python {platform.python_version()}"),
        ("machine", f"{platform.system()} {platform.machine()}"),
    ]


def _funnel(manifest: Manifest) -> list[Stage]:
    funnel = manifest.funnel
    return [
        Stage(name.replace("_", " "), count, NOTES.get(name, ""))
        for name, count in funnel.items()
        if count or name in ("read", "train", "valid", "test")
    ]


def _splits(manifest: Manifest) -> list[Split]:
    return [
        Split(name, part["examples"] or 0, part["records"], part["negatives"], part["tokens"])
        for name, part in manifest.statistics.items()
        if part["examples"]
    ]


def _leaks(manifest: Manifest) -> list[LeakCount]:
    """Every kind and pair of splits, those without a leak too."""
    splits = [name for name, part in manifest.statistics.items() if part["examples"]]
    pairs = [(left, right) for at, left in enumerate(splits) for right in splits[at + 1 :]]
    return [
        LeakCount(left, right, kind, found.get(f"{left}-{right}", 0))
        for kind, found in manifest.leaks["left"].items()
        for left, right in pairs
    ]


def _leak_pairs(manifest: Manifest) -> list[LeakPair]:
    return [
        LeakPair(
            f"{pair['partner_split']} {pair['partner_place']}",
            f"{pair['split']} {pair['place']}",
            pair["kind"],
            pair["partner_text"],
            pair["text"],
            pair["similarity"],
        )
        for pair in manifest.leaks["pairs"][:50]
    ]


def _losses(trained: dict[str, Any] | None) -> Losses | None:
    if trained is None:
        return None
    result = trained["result"]
    return Losses(tuple(map(tuple, result["train_curve"])), tuple(map(tuple, result["valid_curve"])), result["best_step"])


def _best_constant(extra: Any) -> tuple[str, float] | None:
    found = extra.get("best_constant")
    return (found["letter"], found["accuracy"]) if found else None


def _shown(examples: list[Example], system: System) -> list[Any]:
    """Examples of the specialist's answers, or of the last system's."""
    measure = system.evaluation.total.headline[0]
    by_id = {example.id: example for example in examples}
    scores = {score.example_id: score for score in system.evaluation.scores}
    return [show(by_id[id_], scores[id_], measure) for id_ in draw(system.evaluation.scores, measure, NUM_SHOWN)]
