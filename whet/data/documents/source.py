"""What every reader of documents shares: settings, stretches of text, and inputs that can't be read."""

import codecs
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, field_validator

from whet.config import Settings

Kind = Literal["pdf", "text", "markdown", "html", "row"]
"""What a document is: a file of this kind, or one row of a file of rows."""


class DocumentSettings(Settings):
    """How inputs are read."""

    encoding: str | None = None
    """Encoding of every text file; null detects it file by file. A byte order mark outranks it."""
    kind: Literal["pdf", "text", "markdown", "html", "json", "csv", "tsv"] | None = None
    """What every input is (json: a value a line, or a list); null tells by name and content."""
    text_column: str = Field(default="text", min_length=1)
    """Key (JSON) or column (CSV) of a row that holds its text."""
    id_column: str | None = None
    """Key or column that names a row, so that it keeps its name when rows before it come or go; null takes its line."""
    markdown: Literal["keep", "plain"] = "keep"
    """keep: Markdown is read as it is written. plain: its marks are taken out."""
    text_suffixes: tuple[str, ...] = (".txt", ".text", ".log")
    """Ends of the names in a folder that are read as plain text."""
    pdf_password_env: str | None = None
    """Name of the environment variable that holds the password of encrypted PDFs."""
    max_row_bytes: int = Field(default=64 * 2**20, ge=1)
    """Longest row of JSON or CSV in bytes; a longer one is refused unread. Plain text knows no such limit."""

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, encoding: str | None) -> str | None:
        if encoding is None:
            return None
        try:
            "".encode(encoding)
            return codecs.lookup(encoding).name
        except (LookupError, ValueError):
            raise ValueError(f"{encoding!r} is no known encoding; try utf-8, gb18030, big5 or latin-1") from None


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a document's text; the pieces of a document follow one another without gaps."""

    text: str
    start: int
    """Code points before it in the document's text."""
    page: int | None = None
    """The page that it is, from 1, of a PDF."""
    problem: str = ""
    """What could not be read there, with its place and a remedy; then text may be empty."""


@dataclass(frozen=True, slots=True)
class Refused:
    """An input that is not read, and why."""

    name: str
    reason: str
