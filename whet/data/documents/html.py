"""HTML to text while it streams in: a line a block, scripts and styles left out, entities read; and Markdown by way of it."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from whet.data.documents.encoding import Encoding, read_text
from whet.data.documents.source import Piece
from whet.errors import InputError, MissingExtraError, open_to_read

MAX_MARKDOWN_BYTES = 16 * 2**20  # what is parsed as Markdown must be held whole
RENEW_BYTES = 8 * 2**20  # the parser keeps all it was fed, so that a new one takes over now and then
_MAX_OPEN = 500
_MARK = "whet-mark"
_LEFT_OUT = frozenset(("script", "style", "template", "noscript", "iframe", "object", "noframes", "noembed", "rp"))
_BLOCKS = frozenset(
    re.findall(
        r"\w+",
        "address article aside blockquote body br caption center dd details dialog dir div dl dt fieldset figcaption figure "
        "footer form frameset h1 h2 h3 h4 h5 h6 head header hgroup hr html legend li main menu nav ol optgroup option p pre "
        "search section select summary table tbody tfoot thead title tr ul",
    )
)
_BLOCK_END = re.compile(r"</(?:p|div|li|tr|h[1-6]|table|ul|ol|section|article|blockquote|pre)>", re.IGNORECASE)
_KEPT = frozenset(("pre", "textarea", "listing", "plaintext", "xmp"))
_CELLS = frozenset(("td", "th"))
_SPACE = re.compile(r"[ \t\n\f\r]+")
_EAST = re.compile("[\u2e80-\u312f\u31a0-\u9fff\uf900-\ufaff\uff00-\uffef\U0001aff0-\U0003ffff]")


class _Text:
    """What a parser tells of a page, as text; the parser calls start, end, data, comment, pi and close."""

    def __init__(self) -> None:
        self.out: list[str] = []
        self._last = ""
        """Last character that was written."""
        self._gap = ""
        """White space that is owed before the next character: of these the first that was met in the order below."""
        self._num_left_out = self._num_kept = 0
        self.open: list[str] = []
        self.is_marked = self.is_deaf = False

    @property
    def is_calm(self) -> bool:
        """Whether the parser stands in plain text and tags, as far as can be told from here."""
        return not (self._num_left_out or self._num_kept or "title" in self.open[-2:] or len(self.open) > _MAX_OPEN)

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == _MARK:
            self.is_marked = True
        elif not self.is_deaf:
            self.open.append(tag)
            self._begin_or_end(tag, 1)

    def end(self, tag: str) -> None:
        if tag != _MARK and not self.is_deaf:
            del self.open[-1:]
            self._begin_or_end(tag, -1)

    def _begin_or_end(self, tag: str, step: int) -> None:
        if tag in _LEFT_OUT:
            self._num_left_out += step
        elif tag in _BLOCKS:
            self._owe("\n")
        elif tag in _CELLS and step < 0:
            self._owe("\t")
        if tag in _KEPT:
            self._num_kept += step

    def data(self, text: str) -> None:
        if self._num_left_out:
            return
        if self._num_kept:
            self._write(text)
            return
        at = 0
        for match in _SPACE.finditer(text):
            if match.start() > at:
                self._write(text[at : match.start()])
            self._owe("~" if "\n" in match[0] else " ")
            at = match.end()
        if at < len(text):
            self._write(text[at:])

    def comment(self, text: str) -> None:
        pass

    def pi(self, target: str, text: str | None = None) -> None:
        pass

    def close(self) -> None:
        pass

    def _owe(self, gap: str) -> None:
        """Owe white space: a line break outranks a tab, that a space, that the end of a line in the file."""
        if "~ \t\n".find(gap) > (-1 if not self._gap else "~ \t\n".find(self._gap)):
            self._gap = gap

    def _write(self, text: str) -> None:
        gap, self._gap = self._gap, ""
        if gap and self._last and self._last != "\n":
            # A line of the file that ends between two Chinese characters does not part them.
            is_inside = gap == "~" and _EAST.match(self._last) and _EAST.match(text)
            self.out.append("" if is_inside else gap.replace("~", " "))
        self.out.append(text)
        self._last = text[-1:] or self._last

    def take(self) -> str:
        text = "".join(self.out)
        self.out.clear()
        return text


def read_html(path: Path, name: str, encoding: Encoding) -> Iterator[Piece]:
    """The text of a page in stretches; a page without any is one piece with a problem."""
    with open_to_read(path) as file:
        yield from _read(read_text(file, name, encoding))


def read_markdown(path: Path, name: str, encoding: Encoding) -> Iterator[Piece]:
    """The text of Markdown without its marks, a block a line. It is held whole; InputError if it is too large for that."""
    try:
        from markdown_it import MarkdownIt
    except ImportError:
        raise MissingExtraError("markdown-it-py", "documents", "taking the marks out of Markdown") from None
    with open_to_read(path) as file:
        parts, problems, size = [], [], 0
        for text, problem in read_text(file, name, encoding):
            size += len(text)
            if size > MAX_MARKDOWN_BYTES:
                remedy = "Set extract.documents.markdown to keep, which streams, or split the file"
                raise InputError(name, "is Markdown of more than 16 MB, too large to take its marks out", remedy)
            parts.append(text)
            problems += [problem] if problem else []
    try:
        page = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render("".join(parts))
    except RecursionError:
        raise InputError(name, "is Markdown that is nested too deeply", "Set extract.documents.markdown to keep") from None
    yield from _read([(page, "; ".join(problems))])


class _Parser:
    """A streaming parser of HTML; its memory does not grow with what it is fed."""

    def __init__(self) -> None:
        self.page = _Text()
        self._parser = self._new()
        self._num_fed = 0

    def _new(self) -> Any:
        try:
            from lxml import etree
        except ImportError:
            raise MissingExtraError("lxml", "documents", "reading HTML") from None
        # What is fed is text already: a page's own word on its encoding must not be heard a second time.
        return etree.HTMLParser(target=self.page, encoding="utf-8", huge_tree=True, recover=True)

    def feed(self, text: str) -> None:
        end = _BLOCK_END.search(text) if self._num_fed > RENEW_BYTES else None
        if end is not None:
            self._feed(text[: end.end()])
            self._renew()
            text = text[end.end() :]
        self._feed(text)

    def _feed(self, text: str) -> None:
        if text:
            self._parser.feed(text.encode("utf-8", "replace"))
            self._num_fed += len(text)

    def _renew(self) -> None:
        """Let a new parser go on in the same elements, if this one takes a mark for a tag: then it is in no comment or quote."""
        page = self.page
        if not page.is_calm:
            return
        page.is_marked = False
        self._feed(f"<{_MARK}></{_MARK}>")
        if not page.is_marked:
            return
        page.is_deaf = True
        self.close()
        self._parser, self._num_fed = self._new(), 0
        self._feed("".join(f"<{tag}>" for tag in page.open))
        page.is_deaf = False

    def close(self) -> None:
        from lxml import etree

        try:
            if self._num_fed:
                self._parser.close()
        except etree.XMLSyntaxError:
            pass  # a page without a single element or character


def _read(blocks: Iterable[tuple[str, str]]) -> Iterator[Piece]:
    parser = _Parser()
    start = 0
    for block, problem in blocks:
        parser.feed(block)
        text = parser.page.take()
        if text or problem:
            yield Piece(text, start, problem=problem)
        start += len(text)
    parser.close()
    text = parser.page.take()
    if text or start == 0:
        yield Piece(text, start, problem="" if text else "the page holds no text")
