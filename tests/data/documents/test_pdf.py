"""PDFs through pdfium: text page by page, places, and what each kind of broken file says."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from written_pdfs import Drawn, Picture, Run, lines, write_pdf

from whet.data.documents import pdf as pdf_file
from whet.data.documents.pdf import boxes, read_pdf
from whet.data.documents.source import DocumentSettings, Piece
from whet.errors import InputError

PLAIN = DocumentSettings()
FULL = "永樂二年春正月己巳少師蹇義"


def read(tmp_path, raw: bytes, **options) -> list[Piece]:
    path = tmp_path / "a.pdf"
    path.write_bytes(raw)
    pieces = list(read_pdf(path, "a.pdf", DocumentSettings(**options)))
    assert [piece.start for piece in pieces] == [sum(len(p.text) for p in pieces[:n]) for n in range(len(pieces))]
    return pieces


def test_pages_come_as_pieces_with_their_numbers(tmp_path):
    pieces = read(tmp_path, write_pdf([lines(50, 800, [FULL, FULL, "卒。"]), lines(50, 800, ["𠮷野家e\u0301"])]))
    assert pieces == [Piece(f"{FULL}{FULL}卒。\n", 0, 1), Piece("𠮷野家e\u0301", 29, 2)]


def test_a_sentence_goes_on_over_a_page(tmp_path):
    pieces = read(tmp_path, write_pdf([lines(50, 800, [FULL, FULL]), lines(50, 800, [FULL, FULL, "卒。"])]))
    assert "".join(piece.text for piece in pieces) == FULL * 4 + "卒。"


def test_columns_and_vertical_writing_through_pdfium(tmp_path):
    left, right = [f"左欄第{n}行文字排滿一整行寬" for n in range(5)], [f"右欄第{n}行文字排滿一整行寬" for n in range(5)]
    page = [run for pair in zip(lines(50, 800, left), lines(320, 800, right), strict=True) for run in pair]
    assert read(tmp_path, write_pdf([page]))[0].text == "".join(left + right)
    upright = write_pdf([[Run(500, 800, FULL), Run(480, 800, FULL), Run(460, 800, "卒於位。")]], is_upright=True)
    assert read(tmp_path, upright)[0].text == f"{FULL}{FULL}卒於位。"


@pytest.mark.parametrize(
    ("page", "text", "problem"),
    [([Picture()], "", "page 2 holds an image and no text: it needs OCR"), ([], "", "page 2 is blank, or its content is damaged"),
     ([Picture(), Run(290, 30, "12")], "12\n", "page 2 is an image with only 2 characters of text: it needs OCR"),
     ([Drawn(b"0 0 m 99 99 l S")], "", "page 2 holds drawings and no text: it needs OCR if they are letters"),
     ([Picture(), *lines(50, 800, [FULL, FULL])], f"{FULL}{FULL}\n", "")],
)  # fmt: skip
def test_a_page_without_text_says_so_and_the_others_are_read(tmp_path, page, text, problem):
    pieces = read(tmp_path, write_pdf([[Run(50, 800, "一。")], page, [Run(50, 800, "三。")]]))
    assert pieces == [Piece("一。\n", 0, 1), Piece(text, 3, 2, problem), Piece("三。", 3 + len(text), 3)]


def test_a_font_that_names_no_characters_is_told(tmp_path):
    raw = write_pdf([[Run(50, 800, FULL)]], packed=False).replace(b"/ToUnicode 6 0 R", b"/ToUnicodeX 6 0 R"[:17])
    (piece,) = read(tmp_path, raw.replace(b"/ToUnicodeX 6 0 R", b"/Nothing   6 0 R"))
    assert piece.problem.startswith(
        "page 1 does not say what 100 % of its characters are: its text is likely wrong. It needs OCR"
    )


def test_passwords(tmp_path, monkeypatch):
    raw = write_pdf([[Run(50, 800, "秘密")]], password="pass")
    with pytest.raises(
        InputError, match=r"a.pdf: is encrypted. Put its password into an environment variable and name that in extract"
    ):
        read(tmp_path, raw)
    monkeypatch.setenv("OPEN_SESAME", "wrong")
    with pytest.raises(InputError, match=r"is encrypted, and the password in \$OPEN_SESAME does not open it") as error:
        read(tmp_path, raw, pdf_password_env="OPEN_SESAME")
    assert "wrong" not in str(error.value)
    monkeypatch.setenv("OPEN_SESAME", "pass")
    assert read(tmp_path, raw, pdf_password_env="OPEN_SESAME")[0].text == "秘密"
    monkeypatch.setenv("OPEN_SESAME", "owner")
    assert read(tmp_path, raw, pdf_password_env="OPEN_SESAME")[0].text == "秘密"
    assert read(tmp_path, write_pdf([[Run(50, 800, "秘密")]], password=""))[0].text == "秘密"


def test_a_file_that_is_cut_off_says_so(tmp_path):
    raw = write_pdf([[Run(50, 800, "一。")], [Run(50, 800, "二。")]])
    pieces = read(tmp_path, raw[: raw.rindex(b"%%EOF")])
    assert [piece.text for piece in pieces] == ["一。\n", "二。", ""]
    assert pieces[-1] == Piece("", 5, None, "the file lacks its end mark: it was likely cut off, and pages may be missing")
    with pytest.raises(
        InputError, match=r"a.pdf: is damaged: it begins as a PDF, but its pages can't be found. Get another copy"
    ):
        read(tmp_path, raw[: len(raw) // 2])


def test_pages_that_are_missing_are_told_of_once(tmp_path, monkeypatch):
    raw = write_pdf([[Run(50, 800, f"{n}。")] for n in range(3)])
    pieces = read(tmp_path, raw.replace(b"/Count 3", b"/Count 9"))
    assert [(piece.page, piece.problem) for piece in pieces[3:]] == [
        (4, "pages 4 to 9 can't be opened: the file is damaged there")
    ]
    monkeypatch.setattr(pdf_file, "MAX_BROKEN", 3)
    pieces = read(tmp_path, raw.replace(b"/Count 3", b"/Count 900000"))
    assert [(piece.page, piece.problem) for piece in pieces[3:]] == [
        (4, "pages 4 to 900,000 can't be opened: the file is damaged there")
    ]


def test_a_broken_page_amid_others(tmp_path):
    raw = write_pdf([[Run(50, 800, f"{n}。")] for n in range(3)])
    at = raw.index(b"13 0 obj")
    pieces = read(tmp_path, raw[:at] + b"13 0 obj\n[ 1 2 3 ]  " + raw[at + 20 :])
    assert [piece.text for piece in pieces if piece.text] == ["0。\n", "2。"]
    assert [piece.problem for piece in pieces if piece.problem] == ["page 2 can't be opened: the file is damaged there"]


def test_a_page_of_too_many_characters_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(pdf_file, "MAX_GLYPHS", 10)
    (piece,) = read(tmp_path, write_pdf([[Run(50, 800, FULL)]]))
    assert piece.problem == "page 1 holds 13 characters, which is no page of a text: it is not read"


def test_boxes_lead_to_the_place_on_the_page(tmp_path):
    path = tmp_path / "a.pdf"
    path.write_bytes(write_pdf([lines(50, 800, [FULL, FULL, "卒。"]), lines(60, 700, ["次頁在此"])]))
    text = "".join(piece.text for piece in read_pdf(path, "a.pdf", PLAIN))
    over = boxes(path, "a.pdf", PLAIN, (11, 15))
    assert [(box.page, box.x0, box.x1) for box in over] == [(1, 160, 180), (1, 50, 70)]
    assert [(round(box.y0), round(box.y1)) for box in over] == [(798, 808), (784, 794)]
    start = text.index("在此")
    assert boxes(path, "a.pdf", PLAIN, (start, start + 2)) == boxes(path, "a.pdf", PLAIN, (start, start + 2), (2, start - 2))
    (box,) = boxes(path, "a.pdf", PLAIN, (start, start + 2))
    assert (box.page, box.x0, box.x1) == (2, 80, 100)
    both = boxes(path, "a.pdf", PLAIN, (26, start + 1))
    assert {box.page for box in both} == {1, 2}
    assert boxes(path, "a.pdf", PLAIN, (999, 1000)) == []


@settings(max_examples=30)
@given(st.integers(0, 2**32))
def test_any_damage_leaves_words_or_an_input_error(tmp_path_factory, seed):
    draw = random.Random(seed)
    raw = bytearray(DAMAGED[seed % 2])
    for _ in range(draw.randrange(1, 30)):
        at = draw.randrange(len(raw))
        match draw.randrange(3):
            case 0:
                raw[at] = draw.randrange(256)
            case 1:
                del raw[at : at + draw.randrange(40)]
            case 2:
                raw[at:at] = raw[draw.randrange(len(raw)) :][: draw.randrange(60)]
    path = tmp_path_factory.mktemp("damage") / "a.pdf"
    path.write_bytes(raw)
    try:
        pieces = list(read_pdf(path, "a.pdf", PLAIN))
    except InputError as error:
        assert error.what
    else:
        assert all(piece.text or piece.problem for piece in pieces)
        "".join(piece.text for piece in pieces).encode("utf-8")


_PAGES = [lines(50, 800, [FULL, "卒。"]), [Picture()], lines(50, 800, ["三。"])]
DAMAGED = (write_pdf(_PAGES), write_pdf(_PAGES, packed=False))
