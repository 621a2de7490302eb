"""A corpus goes through an engine into the state: each chunk once, whatever changes or is interrupted."""

import itertools
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from flowing import TEXT, Stop, Text, rows, run, said, said_by, wanted, way
from hypothesis import given
from hypothesis import strategies as st
from scripted_reading import Reader, reply

from whet.extract.flow import Flow
from whet.extract.state import State
from whet.records import Completion, Request
from whet.text.prepare import PrepareSettings


@pytest.fixture(scope="module")
def one_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[State]:
    """A state that many passes share: opening one takes a while."""
    state = State(tmp_path_factory.mktemp("state"))
    yield state
    state.close()


def test_every_record_of_a_corpus_is_found_once_where_it_stands(tmp_path: Path) -> None:
    documents = [Text("a", TEXT), Text("b", "<周忱>至。"), Text("c", "無人。")]
    tally = run(tmp_path, documents)
    assert said(tmp_path) == wanted(*documents)
    assert tally.counts["documents"] == 3
    for row in rows(tmp_path):
        text = next(document.text for document in documents if document.name == row["document"])
        for value in (*row["values"].values(), row["quote"]):
            assert value is None or text[value["start"] : value["end"]] == value["text"]
        assert row["values"]["name"]["text"] in row["quote"]["text"]


@given(
    st.lists(st.sampled_from(["Gong<蹇義>", "<夏原吉>", "。", "大雨", "卒，", "Zhou<于謙>", "𠮷", "é́", "\n"]), max_size=40),
    st.integers(32, 80),
    st.integers(12, 16),
    st.lists(st.integers(0, 300), max_size=5),
    st.integers(0, 3),
)
def test_whatever_the_chunks_and_pieces_are_the_records_are_those_of_the_whole_text(
    one_state: State, parts: list[str], size: int, overlap: int, cuts: list[int], seed: int
) -> None:
    text = "".join(parts)
    document = Text("a", text, stamp="", cuts=[cut for cut in cuts if cut < len(text)])
    engine = Reader(seed=seed)
    flow = Flow(way(size, overlap), one_state, is_retry=False)
    flow.run([document], lambda: nullcontext(engine))
    assert said_by(one_state) == wanted(document)


def test_what_was_answered_is_not_asked_again_and_an_unchanged_document_is_not_even_read(tmp_path: Path) -> None:
    first, second = Text("a", TEXT), Text("b", TEXT + "後")
    run(tmp_path, [first])
    engine = Reader()
    tally = run(tmp_path, [first, second], engine)
    assert (first.num_read, second.num_read) == (1, 1)
    assert tally.counts["unchanged"] == 1
    assert said(tmp_path) == wanted(first, second)
    again = Reader()
    run(tmp_path, [first, second], again)
    assert again.asked == []


def test_a_document_that_grew_has_its_new_chunks_asked_only(tmp_path: Path) -> None:
    run(tmp_path, [Text("a", TEXT)])
    engine, grown = Reader(), Text("a", TEXT + "後至<周忱>。", "2")
    tally = run(tmp_path, [grown], engine)
    assert tally.counts["changed"] == 1
    assert 0 < len(engine.asked) <= 2
    assert said(tmp_path) == wanted(grown)


def test_the_old_records_of_a_changed_document_leave_and_come_back_with_it_unasked(tmp_path: Path) -> None:
    old, new = Text("a", "是日<蹇義>卒。", "1"), Text("a", "是日<周忱>至。", "2")
    for document in (old, new):
        run(tmp_path, [document])
        assert said(tmp_path) == wanted(document)
    engine = Reader()
    run(tmp_path, [Text("a", old.text, "3")], engine)
    assert (engine.asked, said(tmp_path)) == ([], wanted(old))


def test_the_records_of_a_document_that_is_gone_leave_the_output(tmp_path: Path) -> None:
    first, second = Text("a", TEXT), Text("b", TEXT)
    run(tmp_path, [first, second])
    run(tmp_path, [second])
    assert said(tmp_path) == wanted(second)
    engine = Reader()
    run(tmp_path, [second, first], engine)
    assert (engine.asked, said(tmp_path)) == ([], wanted(second, first))


def test_a_document_without_a_stamp_is_read_again_and_its_known_chunks_are_not_asked(tmp_path: Path) -> None:
    document, engine = Text("-", TEXT, stamp=""), Reader()
    run(tmp_path, [document])
    run(tmp_path, [document], engine)
    assert (document.num_read, engine.asked, said(tmp_path)) == (2, [], wanted(document))


def test_a_document_that_is_named_twice_is_read_once(tmp_path: Path) -> None:
    document = Text("a", TEXT)
    assert run(tmp_path, [document, document]).counts["repeated"] == 1
    assert said(tmp_path) == wanted(document)


@pytest.mark.parametrize("after", [0, 1, 3, 6])
def test_an_interrupted_pass_is_taken_up_where_it_was(tmp_path: Path, after: int) -> None:
    documents = [Text("a", TEXT), Text("b", TEXT[::-1] + TEXT), Text("c", TEXT + "c")]
    count = itertools.count()

    def stop(request: Request) -> Completion:
        if next(count) == after:
            raise Stop
        return reply(request)

    whole, first, second = Reader(), Reader(stop), Reader()
    run(tmp_path / "whole", documents, whole)
    folder = tmp_path / "cut"
    with pytest.raises(Stop):
        run(folder, documents, first)
    assert set(said(folder)) <= set(wanted(*documents))
    run(folder, documents, second)
    assert rows(folder) == rows(tmp_path / "whole")
    assert len(second.asked) == len(whole.asked) - after


def test_values_are_the_documents_own_characters_however_it_was_prepared(tmp_path: Path) -> None:
    document = Text("a", "头发<萧头发>，ＡＢ<夏原吉>卒。")
    used = way(prepare=PrepareSettings(script="traditional", width="half"))
    engine = Reader()
    run(tmp_path, [document], engine, used)
    assert "<蕭頭髮>" in engine.asked[0]
    assert [row["values"]["name"]["text"] for row in rows(tmp_path)] == ["萧头发", "夏原吉"]
    for row in rows(tmp_path):
        name = row["values"]["name"]
        assert document.text[name["start"] : name["end"]] == name["text"]


def test_requests_are_drawn_as_there_is_room_for_them(tmp_path: Path) -> None:
    drawn = 0

    def many() -> Iterator[Text]:
        nonlocal drawn
        for drawn in range(300):
            yield Text(f"d{drawn}", f"<蹇義{drawn}>卒。")

    answered = 0

    def say(request: Request) -> Completion:
        nonlocal answered
        answered += 1
        assert drawn - answered < 10
        return reply(request)

    run(tmp_path, many(), Reader(say, room=8))  # type: ignore[arg-type]
    assert len(rows(tmp_path)) == 300
