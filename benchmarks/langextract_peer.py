"""Runs langextract over documents, with replies that are given, in an interpreter that needs nothing but langextract."""

import dataclasses
import importlib.metadata
import json
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


@dataclasses.dataclass
class Job:
    """One run of langextract; it travels as JSON."""

    documents: list[str]
    chunk_chars: int
    """max_char_buffer."""
    tokenizer: str
    """unicode: one token a CJK character. regex: the default, one token a run of letters."""
    replies: dict[str, str] | None = None
    """The reply to each chunk, by its text; None only says what the chunks are."""
    fuzzy: bool = True
    """Its fuzzy alignment, which is its default."""
    lesser: bool = True
    """Whether a piece of a value may be taken for it (accept_match_lesser), which is its default."""
    exact: str = "dp"
    """Its exact alignment: dp, its default, or difflib, the older one."""


def run(job: Job) -> dict[str, Any]:
    """Characters at which each document's chunks start and end, or what langextract extracts of each document."""
    import langextract as lx
    from langextract.chunking import ChunkIterator
    from langextract.core.tokenizer import RegexTokenizer, UnicodeTokenizer

    tokenizer = {"unicode": UnicodeTokenizer, "regex": RegexTokenizer}[job.tokenizer]()
    documents = [lx.data.Document(text, document_id=str(number)) for number, text in enumerate(job.documents)]
    if job.replies is None:
        cut = [ChunkIterator(document.text, job.chunk_chars, tokenizer, document) for document in documents]
        return {"chunks": [[[c.char_interval.start_pos, c.char_interval.end_pos] for c in chunks] for chunks in cut]}
    model = make_provider(job.replies)
    example = lx.data.ExampleData(
        "王安石知江宁府。", [lx.data.Extraction("name", "王安石"), lx.data.Extraction("office", "知江宁府")]
    )
    before = time.perf_counter()
    found = lx.extract(
        documents,
        "List who held which office, in order of appearance.",
        [example],
        model=model,
        max_char_buffer=job.chunk_chars,
        tokenizer=tokenizer,
        fence_output=False,
        use_schema_constraints=False,
        show_progress=False,
        # Its check that the example's values stand in the example: with the default tokenizer they are not found.
        prompt_validation_level=lx.prompt_validation.PromptValidationLevel.OFF,
        resolver_params={
            "enable_fuzzy_alignment": job.fuzzy,
            "accept_match_lesser": job.lesser,
            "exact_alignment_algorithm": job.exact,
            "suppress_parse_errors": False,
        },
    )
    seconds = time.perf_counter() - before
    return {"extractions": [list(map(plain, document.extractions)) for document in found], "seconds": seconds}


def make_provider(replies: Mapping[str, str]) -> Any:
    """A provider of langextract's own kind: it takes the chunk out of each prompt and gives the reply to it."""
    from langextract.core.base_model import BaseLanguageModel
    from langextract.core.types import ScoredOutput

    class Given(BaseLanguageModel):  # type: ignore[misc]
        def infer(self, batch_prompts: Sequence[str], **_: Any) -> Iterator[list[Any]]:
            for prompt in batch_prompts:
                chunk = prompt.rpartition("\nQ: ")[2].removesuffix("\nA: ")
                yield [ScoredOutput(score=1.0, output=replies[chunk])]

    return Given()


def plain(extraction: Any) -> dict[str, Any]:
    """An extraction as JSON: its class, where it stands, how it was aligned, its attributes."""
    at, status = extraction.char_interval, extraction.alignment_status
    return {
        "class": extraction.extraction_class,
        "span": at and [at.start_pos, at.end_pos],
        "status": status and status.value,
        "attributes": extraction.attributes,
    }


def main() -> None:
    """Read jobs as a JSON list from standard input; write what came of them as the last line."""
    warnings.simplefilter("ignore")
    jobs = [Job(**row) for row in json.load(sys.stdin)]
    said = {"version": importlib.metadata.version("langextract"), "results": [run(job) for job in jobs]}
    print("\n" + json.dumps(said))


if __name__ == "__main__":
    main()
