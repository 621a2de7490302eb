"""Glyphs to text: lines joined to paragraphs, columns, vertical writing, what is kept out, and each character's glyph."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.data.documents.layout import PageText, read_page, seam
from whet.data.documents.lines import Glyph


def row(text: str, x: float = 50, y: float = 800, size: float = 10, first: int = 0, advance: float | None = None) -> list[Glyph]:
    """Glyphs of one line to the right; an ASCII character is half as wide."""
    glyphs = []
    for number, char in enumerate(text, first):
        width = size * (0.5 if char < "\x80" else 1.0)
        glyphs.append(Glyph(ord(char), number, x, y - 0.2 * size, x + width, y + 0.8 * size))
        x += advance or width
    return glyphs


def rows(
    *texts: str, x: float = 50, y: float = 800, size: float = 10, leading: float = 14, indents: dict[int, float] | None = None
) -> list[Glyph]:
    """Lines one under the other, parted as pdfium parts them."""
    glyphs: list[Glyph] = []
    for number, text in enumerate(texts):
        glyphs += row(text, x + (indents or {}).get(number, 0), y - number * leading, size, len(glyphs))
        glyphs.append(Glyph(13, len(glyphs), 0, 0, 0, 0))
    return glyphs


def turned(glyphs: list[Glyph], way: str) -> list[Glyph]:
    """The page with its writing running down (columns from right to left), up or left instead."""
    match way:
        case "down":
            return [glyph._replace(x0=glyph.y0, x1=glyph.y1, y0=-glyph.x1, y1=-glyph.x0) for glyph in glyphs]
        case "up":
            return [glyph._replace(x0=-glyph.y1, x1=-glyph.y0, y0=glyph.x0, y1=glyph.x1) for glyph in glyphs]
        case "left":
            return [glyph._replace(x0=-glyph.x1, x1=-glyph.x0, y0=-glyph.y1, y1=-glyph.y0) for glyph in glyphs]
    return glyphs


PARAGRAPHS = rows("　　永樂二年春正月己巳少師", "蹇義卒於位上輟朝一日遣官", "致祭焉。", "　　洪武三年夏四月乙丑冊封",
                  "諸皇子為王命有司具禮儀。", indents={0: 0, 3: 0})  # fmt: skip


@pytest.mark.parametrize("way", ["right", "down", "up", "left"])
def test_lines_of_a_paragraph_are_joined_whatever_the_way_of_writing(way):
    text = read_page(turned(PARAGRAPHS, way)).text
    assert (
        text.replace("\u3000", "")
        == "永樂二年春正月己巳少師蹇義卒於位上輟朝一日遣官致祭焉。\n洪武三年夏四月乙丑冊封諸皇子為王命有司具禮儀。"
    )


def test_vertical_columns_are_read_from_right_to_left_in_whatever_order_they_come():
    glyphs = turned(rows("永樂二年春正月己巳少師", "蹇義卒於位上輟朝一日遣", "官致祭焉。"), "down")
    lines = [glyphs[:12], glyphs[12:24], glyphs[24:]]
    assert read_page([*lines[2], *lines[1], *lines[0]]).text == "永樂二年春正月己巳少師蹇義卒於位上輟朝一日遣官致祭焉。"


def test_lines_that_come_from_the_last_to_the_first_are_put_right():
    lines = ("永樂二年春正月己巳少師", "蹇義卒於位上輟朝一日遣", "官致祭焉。")
    glyphs = [glyph for number in (2, 1, 0) for glyph in rows(lines[number], y=800 - 14 * number)]
    assert read_page(glyphs).text == "".join(lines)


def test_an_indent_or_a_gap_or_another_size_begins_a_paragraph():
    full = "永樂二年春正月己巳少師蹇義"
    assert read_page(rows(full, full, full, indents={1: 20})).text == f"{full}\n{full}{full}"
    assert read_page(rows(full, full) + rows(full, full, y=740)).text == f"{full}{full}\n{full}{full}"
    assert read_page(rows(full) + rows(full, size=14, y=780) + rows(full, y=760)).text == f"{full}\n{full}\n{full}"


def test_short_lines_stay_apart():
    assert read_page(rows("卷一", "本紀第一", "太祖")).text == "卷一\n本紀第一\n太祖"


def test_latin_words_are_parted_by_a_space_and_broken_words_joined():
    glyphs = rows("The minister was sent to the province of Shu", "by the emperor, and he stayed there for exam")
    glyphs[-1] = glyphs[-1]._replace(code=2)
    glyphs += rows("ple three years and then he came home again.", y=772)
    assert read_page(glyphs).text == (
        "The minister was sent to the province of Shu by the emperor, and he stayed there for example three years and then he "
        "came home again."
    )


def column(name: str, x: float, y: float = 700, count: int = 6) -> list[list[Glyph]]:
    return [rows(f"{name}欄第{number}行文字排滿一整行寬", x=x, y=y - 14 * number) for number in range(count)]


def texts(name: str, count: int = 6) -> str:
    return "".join(f"{name}欄第{number}行文字排滿一整行寬" for number in range(count))


def test_columns_are_read_one_after_the_other_even_if_the_file_has_them_line_by_line():
    pairs = zip(column("左", 50), column("右", 250), strict=True)
    glyphs = [glyph for left, right in pairs for glyph in (*left, *right)]
    title = rows("橫跨兩欄的標題放在這裡很長很長很長很長很長很長", x=60, y=740, size=14)
    number, head = row("12", x=218, y=560), row("明史", x=50, y=780) + row("卷一", x=330, y=780)
    text = read_page(head + title + glyphs + number).text
    assert text == f"明史 卷一\n橫跨兩欄的標題放在這裡很長很長很長很長很長很長\n{texts('左')}{texts('右')}\n12"


def test_three_columns():
    rows_of_three = zip(column("甲", 50), column("乙", 220), column("丙", 390), strict=True)
    assert read_page([glyph for three in rows_of_three for part in three for glyph in part]).text == texts("甲") + texts(
        "乙"
    ) + texts("丙")


def test_cells_of_a_table_stay_in_their_rows():
    cells = [("蹇義", "少師", "永樂"), ("楊榮", "少傅", "宣德"), ("楊士奇", "少傅", "正統"), ("夏原吉", "尚書", "洪熙")]
    glyphs = []
    for number, line in enumerate(cells):
        for at, cell in enumerate(line):
            glyphs += row(cell, x=50 + 120 * at, y=800 - 14 * number)
        glyphs.append(Glyph(13, 0, 0, 0, 0, 0))
    assert read_page(glyphs).text == "蹇義 少師 永樂\n楊榮 少傅 宣德\n楊士奇 少傅 正統\n夏原吉 尚書 洪熙"


def test_what_is_no_character_is_kept_out_and_radicals_become_characters():
    codes = "少\u0001師\x7f\x85\ufffe蹇\ufeff義a\u00adb⽂⼈ﬁ\U0002f80a"
    assert read_page(row(codes)).text == "少師蹇義ab文人ﬁ\U0002f80a"
    assert read_page([Glyph(0xD842, 0, 0, 0, 5, 5), Glyph(0x110000, 0, 5, 0, 9, 5)]).text == ""


def test_spaces_that_only_set_chinese_loosely_are_left_out():
    def spaced(advance: float, is_made: bool) -> list[Glyph]:
        first, second = row("少師", advance=advance)
        return [first, Glyph(32, 9, 60, 800, 60, 800, is_made), second]

    assert read_page(spaced(13, True)).text == "少師"
    assert read_page(spaced(13, False)).text == "少 師"
    assert read_page(spaced(18, True)).text == "少 師"
    assert read_page(row("a   b\u00a0\u2003c  ")).text == "a b c"


def test_right_to_left_script_has_its_lines_in_order():
    glyphs = []
    for number, word in enumerate(["عاد السلطان الى", "المدينة الكبيرة"]):
        line = row(word, y=800 - 14 * number)
        glyphs += [glyph._replace(x0=500 - glyph.x1, x1=500 - glyph.x0) for glyph in line] + [Glyph(13, 0, 0, 0, 0, 0)]
    assert read_page(glyphs).text.replace("\n", " ") == "عاد السلطان الى المدينة الكبيرة"


@given(
    st.lists(
        st.tuples(
            st.integers(0, 0x10FFFF), st.floats(-99, 999), st.floats(-99, 999), st.floats(0, 60), st.floats(0, 60), st.booleans()
        ),
        max_size=40,
    )
)
def test_any_glyphs_have_a_text_and_each_character_a_glyph(marks):
    glyphs = [Glyph(code, at, x, y, x + w, y + h, made and code == 32) for at, (code, x, y, w, h, made) in enumerate(marks)]
    page = read_page(glyphs)
    assert len(page.numbers) == len(page.text)
    page.text.encode("utf-8")
    for char, number in zip(page.text, page.numbers, strict=True):
        if number < 0:
            assert char in " \n"
        elif char != " " and not 0x2F00 <= marks[number][0] < 0x2FD6:
            assert ord(char) == marks[number][0]
    kept = [number for number in page.numbers if number >= 0 and page.text]
    assert len(set(kept)) == len(kept)
    letters = {at for at, (code, *_) in enumerate(marks) if chr(code).isalpha() and not 0xD800 <= code < 0xE000}
    assert letters <= set(kept)


def test_a_sentence_goes_on_over_the_end_of_a_page_only_between_full_lines():
    full = "永樂二年春正月己巳少師蹇義"
    running, ended = read_page(rows(full, full)), read_page(rows(full, "卒。"))
    assert seam(running, running) == ""
    assert seam(ended, running) == "\n"
    assert seam(running, read_page(rows("卒。", full, full))) == "\n"
    assert seam(running, read_page(rows(full, full, size=14, leading=20))) == "\n"
    assert seam(running, PageText()) == "\n"
    assert PageText() == read_page([])
