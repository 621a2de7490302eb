"""Plain text, and Markdown as it is written: the characters of the file, line ends and all."""

from collections.abc import Iterator
from pathlib import Path

from whet.data.documents.encoding import Encoding, read_text
from whet.data.documents.source import Piece
from whet.errors import open_to_read


def read_plain(path: Path, name: str, encoding: Encoding) -> Iterator[Piece]:
    """The text of a file in stretches of bounded length; nothing in it is changed but for a mark of its encoding."""
    start = 0
    with open_to_read(path) as file:
        for text, problem in read_text(file, name, encoding):
            yield Piece(text, start, problem=problem)
            start += len(text)
