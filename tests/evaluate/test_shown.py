"""Examples as shown in the report: their marks, their notes, and which are drawn."""

from hypothesis import given, settings
from hypothesis import strategies as st
from sample_reports import TEXTS, make_example, make_score

from whet.evaluate.shown import Mark, cut, draw, line_up, show
from whet.records import Counts, Example, Score


@settings(max_examples=60, deadline=None)
@given(
    st.text("甲乙丙", max_size=12),
    st.lists(st.builds(Mark, st.integers(-2, 14), st.integers(-2, 14), st.sampled_from(["right", "wrong"]), st.just("f"))),
)
def test_a_text_cut_at_its_marks_is_still_the_text(text, marks):
    pieces = cut(text, marks)
    assert "".join(piece.text for piece in pieces) == text
    at = 0
    for piece in pieces:
        for place in range(at, at + len(piece.text)):
            assert [m for m in marks if m.start <= place < m.end] == list(piece.marks)
        at += len(piece.text)


def test_marks_say_what_was_right_missed_and_wrong():
    text, gold, said = TEXTS[1]
    shown = show(make_example(text, gold), make_score(make_example(text, gold), said))
    assert shown.kind == "wrong"
    assert {(text[m.start : m.end], m.outcome) for m in shown.marks} == {
        ("程富", "right"), ("行在監察御史", "missed"), ("行在大理寺左少卿", "wrong"), ("李蕡", "right"),
        ("給事中", "right"),
    }  # fmt: skip
    assert [outcome for outcome, _ in line_up(shown.gold, shown.said)] == ["missed", "right", "wrong"]


def test_what_could_not_be_read_says_so_and_what_is_joined_wrongly_too():
    text, gold, _ = TEXTS[2]
    example = make_example(text, gold)
    unread = show(example, make_score(example, (), "unread"))
    assert (unread.kind, unread.note) == ("wrong", "The reply could not be read: not JSON")
    assert {mark.outcome for mark in unread.marks} == {"missed"}
    crossed = show(example, make_score(example, (("夏原吉", "工部侍郎"), ("周忱", "戶部尚書"))))
    assert crossed.kind == "wrong"
    assert {mark.outcome for mark in crossed.marks} == {"right"}
    assert "joined to other records" in crossed.note


def test_a_value_said_once_too_often_is_marked_where_it_stands_again():
    example = make_example("少師蹇義，蹇義卒。", (("蹇義", "少師"),))
    shown = show(example, make_score(example, (("蹇義", "少師"), ("蹇義", "少師"))))
    assert [(m.start, m.outcome) for m in shown.marks if m.field == "name"] == [(2, "right"), (5, "wrong")]


def test_choice_answers_are_shown_by_letter():
    example = Example("q", "1 + 1?", "q:1", "q", choices=("1", "2"), answer=1)
    score = Score("q", "read", right=False, detail={"letter": "A", "gold": "B"})
    shown = show(example, score, "accuracy")
    assert (shown.kind, shown.gold, shown.said) == ("wrong", ({"answer": "B"},), ({"answer": "A"},))


def test_the_draw_takes_every_kind_in_turn_and_no_errors():
    scores = [Score(f"r{i}", "read", {"record": Counts(1, 0, 0)}) for i in range(50)]
    scores += [Score(f"w{i}", "read", {"record": Counts(0, 1, 0)}) for i in range(3)]
    scores += [Score(f"m{i}", "read", {"record": Counts(0, 0, 1)}) for i in range(9)]
    scores += [Score("e0", "error")]
    ids = draw(scores, "record", 20, seed=1)
    assert [sum(id_[0] == kind for id_ in ids) for kind in "rwme"] == [9, 3, 8, 0]
    assert ids == draw(scores, "record", 20, seed=1) != draw(scores, "record", 20, seed=2)
    assert len(draw(scores, "record", 1000)) == 62
