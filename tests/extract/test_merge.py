"""Records of overlapping chunks become those of the whole text, each once."""

from collections import Counter
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from whet.extract.found import ChunkFound, Found, found_from_rows, found_to_rows
from whet.extract.merge import merge
from whet.records import Span, Value


def found(confidence: float | None = None, /, **spans: tuple[int, int] | str | None) -> Found:
    values = {
        name: None
        if place is None
        else Value(place, None, confidence)
        if isinstance(place, str)
        else Value("x" * (place[1] - place[0]), Span(*place), confidence)
        for name, place in spans.items()
    }
    return Found(values)


def sureness(record: Found) -> float:
    return min((value.confidence for value in record.values.values() if value and value.confidence is not None), default=0.0)


def merged(*chunks: ChunkFound) -> tuple[list[Found], Counter[str]]:
    away: Counter[str] = Counter()
    return [one.record for one in merge(chunks, sureness, away)], +away


def test_a_record_that_two_chunks_gave_stands_once_as_the_surer_said_it() -> None:
    first, second = found(0.5, name=(8, 10), event="Death"), found(0.9, name=(8, 10), event="Other")
    kept, away = merged(ChunkFound("a", 0, 12, (first,)), ChunkFound("b", 6, 20, (second,)))
    assert (kept, away) == ([second], {"repeated": 1})


def test_of_two_equally_sure_chunks_the_one_that_saw_more_around_it_counts() -> None:
    first, second = found(name=(10, 12), event="Death"), found(name=(10, 12), event="Other")
    kept, _ = merged(ChunkFound("a", 0, 12, (first,)), ChunkFound("b", 6, 20, (second,)))
    assert kept == [second]


def test_the_same_name_at_two_places_is_two_records() -> None:
    records = (found(name=(2, 4)), found(name=(7, 9)))
    assert merged(ChunkFound("a", 0, 12, records))[0] == list(records)


def test_two_events_of_one_person_in_one_reply_stay_and_are_not_doubled_by_the_next_chunk() -> None:
    records = (found(name=(8, 10), event="Death"), found(name=(8, 10), event="Other"))
    kept, away = merged(ChunkFound("a", 0, 12, records), ChunkFound("b", 6, 20, records))
    assert (kept, away) == (list(records), {"repeated": 2})


def test_what_a_border_cut_gives_way_to_the_fuller_record() -> None:
    cut = found(0.99, name=(8, 10), office=None)
    whole = found(0.4, name=(8, 10), office=(4, 8))
    kept, away = merged(ChunkFound("a", 0, 12, (whole,)), ChunkFound("b", 6, 20, (cut,)))
    assert (kept, away) == ([whole], {"contained": 1})


def test_half_a_name_gives_way_to_the_whole_one() -> None:
    kept, _ = merged(ChunkFound("a", 0, 10, (found(name=(8, 10)),)), ChunkFound("b", 6, 20, (found(name=(8, 11)),)))
    assert kept == [found(name=(8, 11))]


def test_a_contained_record_that_the_fuller_chunk_said_too_stays() -> None:
    small, large = found(name=(8, 10), office=None), found(name=(8, 10), office=(6, 8))
    kept, _ = merged(ChunkFound("a", 0, 12, (small, large)), ChunkFound("b", 7, 20, (small,)))
    assert sorted(kept, key=str) == sorted([small, large], key=str)


def test_records_of_one_reply_that_lie_in_each_other_both_stay() -> None:
    records = (found(name=(8, 10), office=None), found(name=(8, 10), office=(6, 8)))
    kept, away = merged(ChunkFound("a", 0, 12, records))
    assert (len(kept), away) == (2, {})


def test_records_without_spans_are_one_where_their_chunks_overlap_and_their_texts_agree() -> None:
    record = found(topic="flood")
    kept, _ = merged(
        ChunkFound("a", 0, 12, (record, record)), ChunkFound("b", 6, 20, (record,)), ChunkFound("c", 20, 30, (record,))
    )
    assert kept == [record, record]


@st.composite
def _cut_texts(draw: st.DrawFn) -> tuple[list[tuple[int, int]], set[tuple[tuple[int, int], tuple[int, int] | None, str]]]:
    """Chunks that cover a text, each overlapping the next by at least 8, and gold records no longer than that."""
    length = draw(st.integers(1, 120))
    chunks, start = [], 0
    while True:
        end = min(length, start + draw(st.integers(9, 40)))
        chunks.append((start, end))
        if end == length:
            break
        start = max(start + 1, end - draw(st.integers(8, 12)))
    gold = set()
    for _ in range(draw(st.integers(0, 12))):
        name = draw(st.integers(0, length - 1))
        name_end = min(length, name + draw(st.integers(1, 3)))
        office = draw(st.none() | st.integers(max(0, name_end - 8), max(0, name - 1)))
        place = None if office is None or office >= name else (office, min(name, office + draw(st.integers(1, 4))))
        gold.add(((name, name_end), place, draw(st.sampled_from(["Death", "Other"]))))
    return chunks, gold


def _seen(
    chunk: tuple[int, int], gold: Sequence[tuple[tuple[int, int], tuple[int, int] | None, str]], is_cutting: bool
) -> tuple[Found, ...]:
    """What a perfect reader of one chunk says; `is_cutting` lets it say as much as is left of a cut record, too."""
    records = []
    for name, office, event in gold:
        clipped = [place and (max(place[0], chunk[0]), min(place[1], chunk[1])) for place in (name, office)]
        seen = [place if place and place[0] < place[1] else None for place in clipped]
        if seen == [name, office] or (is_cutting and seen[0]):
            records.append(found(name=seen[0], office=seen[1], event=event))
    return tuple(records)


@given(_cut_texts(), st.booleans())
def test_a_perfect_reader_of_chunks_gives_the_records_of_the_whole_text_each_once(drawn, is_cutting: bool) -> None:
    chunks, gold = drawn
    away: Counter[str] = Counter()
    sides = [
        ChunkFound(str(number), *chunk, _seen(chunk, sorted(gold, key=str), is_cutting)) for number, chunk in enumerate(chunks)
    ]
    kept = [one.record for one in merge(sides, sureness, away)]
    wanted = [found(name=name, office=office, event=event) for name, office, event in gold]
    assert sorted(map(str, kept)) == sorted(map(str, wanted))
    starts = [min(span.start for _, span in record.spans) for record in kept]
    assert starts == sorted(starts)
    assert sum(len(side.records) for side in sides) == len(kept) + away.total()


def test_merging_holds_a_few_chunks_at_a_time() -> None:
    given_out = 0

    def endless():
        nonlocal given_out
        for number in range(10_000):
            given_out = number
            yield ChunkFound(str(number), 10 * number, 10 * number + 13, (found(name=(10 * number + 10, 10 * number + 12)),))

    stream = merge(endless(), sureness, Counter())
    for number, _ in enumerate(stream):
        assert given_out - number < 5
    assert number == 9_999


@given(
    st.lists(
        st.sampled_from(
            [
                found(0.25, name=(3, 5), office=None),
                Found({"a": Value("𠮷\ud800", Span(0, 2), 0.5, True)}, Value("q", Span(0, 1)), ("cut",)),
            ]
        )
    )
)
def test_records_are_kept_as_json_and_read_back(records: list[Found]) -> None:
    assert found_from_rows(found_to_rows(records)) == tuple(records)
