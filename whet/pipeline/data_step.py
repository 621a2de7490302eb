"""The data step: builds the run's data folder from the recipe's sources."""

from pathlib import Path

from whet.data.build import Manifest, build, read_manifest
from whet.data.sources import files_of
from whet.pipeline.bench import Bench
from whet.records import Example
from whet.storage import hash_file
from whet.train.encode import encode_example

CODE = ("records.py", "text", "tasks", "data")


def source_hashes(bench: Bench) -> dict[str, str]:
    """SHA-256 of every file that the recipe's sources name."""
    data = bench.recipe.data
    root = data.root or Path()
    files = [file for source in data.sources for file in files_of(source, root)]
    return {file.name: hash_file(file.path) for file in files}


def run(bench: Bench) -> Manifest:
    """Build the data, unless the same sources were built with the same settings."""
    # A server holds texts of other lengths than the base, and has tokens of its own.
    limit, base = (bench.token_limit, bench.base.fingerprint) if bench.has_base else (None, "")
    key = bench.key(CODE, bench.recipe.data, bench.recipe.task, source_hashes(bench), limit, base)
    folder = bench.folder
    if folder.is_done("data", key) and (folder.data / "manifest.json").is_file():
        bench.watch.begin("data", True)
        return read_manifest(folder.data)
    bench.watch.begin("data", False)
    folder.unmark("data")

    def count_tokens(example: Example) -> int:
        return encode_example(example, bench.task, bench.chat).num_tokens

    manifest = build(
        bench.recipe.data,
        bench.task,
        folder.data,
        count_tokens if bench.has_base else None,
        limit,
        lambda stage, num: bench.watch.count(stage, num, None),
        Path(),
    )
    folder.mark("data", key, split_hash=manifest.split_hash)
    left_out = manifest.left_out
    if left_out:
        stages = ", ".join(f"{stage.replace('_', ' ')} {num}" for stage, num in left_out.items())
        bench.watch.say(
            f"{sum(left_out.values())} rows left out: {stages}; each is in {folder.data / 'rejects.jsonl'} with its place"
        )
    return manifest
