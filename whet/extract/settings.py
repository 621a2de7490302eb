"""The section `extract` of a recipe: how a corpus is read, cut, judged, and split in accepted and to be reviewed."""

from pydantic import Field

from whet.config import Settings
from whet.data.chunks import ChunkSettings
from whet.data.documents.source import DocumentSettings
from whet.evaluate.acceptance import AcceptSettings
from whet.tasks.rules import Rule


class ExtractSettings(Settings):
    """How records are taken out of a whole corpus."""

    documents: DocumentSettings = DocumentSettings()
    """How inputs are read."""
    chunks: ChunkSettings = ChunkSettings()
    """How texts are cut in stretches that are asked one by one."""
    rules: tuple[Rule, ...] = ()
    """What is dropped, flagged or split. Rules are applied when the output is written: other ones ask nothing again."""
    accept: AcceptSettings = AcceptSettings()
    """Which records are accepted, and which go to review."""
    max_failed: float = Field(default=0.05, ge=0, le=1)
    """Largest share of chunks that may have failed or been cut; above it the exit code is 1."""
    max_errors_in_a_row: int = Field(default=50, ge=1)
    """So many requests that the engine fails one after another end the pass: it is taken to be gone."""
