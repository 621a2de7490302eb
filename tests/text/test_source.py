"""A source's pieces, against all of them tried one by one."""

import json

import regex
from constrained import sources
from hypothesis import given
from hypothesis import strategies as st

from whet.text.source import WALL, Source


def pieces(text: str) -> list[tuple[str, int, int]]:
    """Every piece between two cuts of a stretch without surrogates, with its place in the stretch's JSON."""
    found, place = [], 0
    for stretch in regex.split(r"[\ud800-\udfff]+", text):
        cuts = [match.start() for match in regex.finditer(r"\X", stretch)] + [len(stretch)] * bool(stretch)

        def size(chars: str) -> int:
            return len(json.dumps(chars, ensure_ascii=False)[1:-1].encode())

        for number, start in enumerate(cuts):
            for end in cuts[number + 1 :]:
                found.append((stretch[start:end], place + size(stretch[:start]), place + size(stretch[:end])))
        place += size(stretch) + 1
    return found


@given(sources())
def test_starts_and_ends_are_those_of_clusters(text: str) -> None:
    source = Source(text)
    assert {start for _, start, _ in pieces(text)} == set(source.starts)
    assert {end for _, _, end in pieces(text)} == set(source.ends)
    for value, start, end in pieces(text):
        assert json.loads(b'"' + source.bytes[start:end] + b'"') == value
        assert source.counts[end] - source.counts[start] == len(value) < WALL
        assert source.is_start[start] and source.is_end[end]


@given(sources())
def test_the_chunks_are_the_clusters_with_a_nul_where_the_text_is_torn(text: str) -> None:
    source = Source(text)
    chunks = [*source.chunks()]
    whole = "".join(chunks)
    torn = [stretch for stretch in regex.split(r"[\ud800-\udfff]+", text) if stretch]
    assert [json.loads(f'"{stretch}"') for stretch in whole.split("\0") if stretch] == torn
    assert "".join(chunks).encode().strip(b"\0") == source.bytes.strip(b"\0")


@given(sources(), st.integers(0, 1000), st.integers(1, 4))
def test_what_is_found_begins_a_cluster(text: str, at: int, size: int) -> None:
    source = Source(text)
    if not source.bytes:
        return
    data = source.bytes[at % len(source.bytes) :][:size]
    wanted = [start + len(data) for start in source.starts if source.bytes.startswith(data, start)]
    assert [*source.find(data)] == wanted


@given(sources(), st.integers(1, 5), st.integers(0, 5))
def test_the_first_end_is_the_nearest_that_fits(text: str, least: int, more: int) -> None:
    source, every = Source(text), pieces(text)
    for start in source.starts[:40]:
        for place in range(start, min(start + 12, len(source.bytes))):
            fitting = [end for value, at, end in every if at == start and end >= place and least <= len(value)]
            wanted = min(fitting, default=None)
            if wanted is not None and source.counts[wanted] - source.counts[start] > least + more:
                wanted = None
            assert source.end_after(start, place, least, least + more) == wanted
    assert source.holds(least, least + more) == any(least <= len(value) <= least + more for value, _, _ in every)


@given(sources())
def test_the_rest_of_a_character_is_what_it_lacks(text: str) -> None:
    source = Source(text)
    for char in regex.finditer(r"[^\ud800-\udfff]", text[:30]):
        written = json.dumps(char[0], ensure_ascii=False)[1:-1].encode()
        before = Source(text[: char.start()]).bytes
        for size in range(len(written)):
            assert source.rest_of_char(len(before) + size) == (written[size:] if size else b"")
