"""The page in a browser: keys, filters, links, drawing on demand, hostile text. Needs Chromium and playwright."""

import json
import shutil
from pathlib import Path

import pytest
import viewed
from written_pdfs import Picture, lines, write_pdf

from whet.pipeline.view.write import ViewSettings, write_view

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the path"),
]
CATCH = "navigator.clipboard.writeText = async (words) => { window.copied = words; };"
PLACED = """() => [...document.querySelectorAll('#text mark.now.value')].map((mark) => mark.textContent).join('|')"""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def look(browser, tmp_path):
    """Writes a page and opens it; every fault of the page and everything that it asks the network for fails the test."""
    faults, contexts = [], []

    def open_page(texts, rows, *, hash_="", width=1300, height=800, scheme="light", **settings):
        write_view(viewed.write_out(tmp_path, texts, rows), tmp_path / "view.html", ViewSettings(**settings))
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.add_init_script(CATCH)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text))
        page.on("dialog", lambda dialog: faults.append(dialog.message))
        page.on("request", lambda request: faults.append(request.url) if not request.url.startswith("file:") else None)
        page.goto((tmp_path / "view.html").as_uri() + hash_)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [fault for fault in faults if "TrustedHTML" not in fault] == []  # that one a test provokes, and asks for itself


def settle(page):
    """After what waits for a pause in typing, and the frame after it."""
    page.evaluate("() => new Promise((done) => setTimeout(() => requestAnimationFrame(() => setTimeout(done)), 300))")


def current(page):
    """The current record's row, as the page copies it."""
    page.keyboard.press("c")
    page.wait_for_function("window.copied")
    return json.loads(page.evaluate("() => { const words = window.copied; window.copied = ''; return words; }"))


def in_order(rows):
    """Rows as the page orders them: by document, then by their first value."""
    names = list(dict.fromkeys(made["document"] for made in rows))

    def place(made):
        return min((v["start"], v["end"]) for v in made["values"].values() if v and "start" in v)

    return sorted(rows, key=lambda made: (names.index(made["document"]), place(made)))


def same(page, made, folder):
    assert current(page) == made | {"document": str(folder / made["document"])}


def texts_of(made):
    """What the values with a place say, in the order of their places."""
    placed = sorted((v["start"], v["text"]) for v in made["values"].values() if v and "start" in v)
    return "".join(text for _, text in placed)


def test_keys_walk_through_records_and_documents_and_each_is_copied_as_its_row_is(look, tmp_path):
    texts, rows = viewed.many(6000, 60)
    page, order = look(texts, rows), in_order(rows)
    for made in order[:8]:
        page.keyboard.press("j")
        same(page, made, tmp_path)
        assert page.evaluate(PLACED).replace("|", "") == texts_of(made)
    page.keyboard.press("k")
    same(page, order[6], tmp_path)
    page.keyboard.press("J")
    same(page, order[20], tmp_path)
    page.keyboard.press("J")
    same(page, order[40], tmp_path)
    page.keyboard.press("K")
    same(page, order[20], tmp_path)
    page.keyboard.press("G")
    same(page, order[-1], tmp_path)
    page.keyboard.press("j")
    assert page.inner_text("#toast") == "This is the last record"
    page.keyboard.press("g")
    same(page, order[0], tmp_path)


def test_only_what_is_on_screen_is_drawn(look):
    texts, rows = viewed.many(150_000, 6000)
    page = look(texts, rows)
    for key in "GgJj":
        page.keyboard.press(key)
        assert page.evaluate("document.querySelectorAll('*').length") < 4000
    assert page.evaluate("document.querySelector('#text').scrollHeight") > 50_000


@pytest.mark.parametrize("width", [1300, 380])
def test_scrolling_shows_every_character_once(look, width):
    texts = {"a.txt": viewed.WIDE * 30 + viewed.RIGHT_TO_LEFT, "b.txt": viewed.LONG_LINE, "c.txt": "\n\n行\n" * 500 + "末"}
    rows = [viewed.row(name, {"name": viewed.value(text, "行" if "行" in text else "程富")}) for name, text in texts.items()]
    page = look(texts, rows, width=width)
    seen = page.evaluate("""async () => {
      const pane = document.querySelector('#text'), parts = [];
      const take = () => { for (const text of pane.querySelectorAll('.text')) if (!text.taken) {
        text.taken = true; const copy = text.cloneNode(true); for (const sign of copy.querySelectorAll('.control')) sign.remove(); parts.push(copy.textContent); } };
      take();
      for (let last = -1; pane.scrollTop !== last;) { last = pane.scrollTop; pane.scrollTop += 300;
        await new Promise((done) => requestAnimationFrame(() => setTimeout(done))); take(); }
      return parts.join('');
    }""")
    assert seen == "".join(texts.values()).replace("\u202e", "").replace("\u202c", "")


def test_what_the_reader_looks_at_stays_where_it_is_when_the_width_changes(look):
    texts, rows = viewed.many(60_000, 300)
    page = look(texts, rows)
    page.evaluate("document.querySelector('#text').scrollTop = 20000")
    top = """() => { const pane = document.querySelector('#text').getBoundingClientRect();
      return [...document.querySelectorAll('.block')].find((block) => block.getBoundingClientRect().bottom > pane.top + 1).textContent; }"""
    settle(page)
    before = page.evaluate(top)
    page.set_viewport_size({"width": 900, "height": 700})
    settle(page)
    assert page.evaluate(top) == before


def test_a_link_opens_its_record_and_clears_filters_that_hide_it(look, tmp_path):
    texts, rows = viewed.many(60_000, 300)
    order = in_order(rows)
    page = look(texts, rows, hash_=f"#record={order[250]['id']}")
    same(page, order[250], tmp_path)
    mark = page.evaluate(
        "(() => { const m = document.querySelector('mark.now').getBoundingClientRect(); return [m.top, innerHeight]; })()"
    )
    assert 0 < mark[0] < mark[1]
    page.keyboard.press("j")
    settle(page)
    assert page.evaluate("location.hash") == f"#record={order[251]['id']}"
    page.keyboard.press("y")
    assert page.evaluate("window.copied").endswith(f"view.html#record={order[251]['id']}")
    page.evaluate("window.copied = ''")
    page.keyboard.press("f")
    page.fill("[name=document]", "annals-0")
    settle(page)
    page.evaluate(f"location.hash = '#record={order[299]['id']}'")
    settle(page)
    page.keyboard.press("Escape")
    same(page, order[299], tmp_path)
    page.evaluate("location.hash = '#record=none'")
    settle(page)
    assert page.inner_text("#toast") == "There is no record none on this page"


def share(made):
    return made["confidence"]


@pytest.mark.parametrize(
    ("steps", "passes"),
    [
        ({"words": "程"}, lambda made: any("程" in v["text"] for v in made["values"].values() if v)),
        ({"words": "appoint", "field": "2"}, lambda made: made["values"]["event"]["text"] == "Appointment"),
        ({"match": "is", "words": "Death"}, lambda made: made["values"]["event"]["text"] == "Death"),
        ({"match": "empty", "field": "1"}, lambda made: made["values"]["office"] is None),
        ({"words": "𪚥", "field": "3"}, lambda made: "𪚥" in made["quote"]["text"]),
        ({"low": "80"}, lambda made: share(made) >= 0.8),
        ({"low": "20", "high": "30.5", "field": "2"}, lambda made: 0.2 <= made["values"]["event"]["confidence"] <= 0.305),
        ({"status": "accepted"}, lambda made: made["is_accepted"]),
        ({"status": "review"}, lambda made: not made["is_accepted"]),
        ({"flag": "title"}, lambda made: "title" in made["flags"]),
        ({"flag": "without flags"}, lambda made: not made["flags"]),
        ({"flag": "ambiguous place"}, lambda made: made["values"]["name"].get("ambiguous", False)),
        ({"document": "ANNALS-1"}, lambda made: made["document"] == "annals-1.txt"),
        ({"document": "annals-2", "status": "accepted", "flag": "kinship"}, lambda made: made["document"] == "annals-2.txt" and made["is_accepted"] and "kinship" in made["flags"]),
        ({"words": "no such"}, lambda made: False),
    ],
    ids=lambda it: "-".join(it) if isinstance(it, dict) else "",
)  # fmt: skip
def test_filters_leave_the_records_that_pass(look, tmp_path, steps, passes):
    texts, rows = viewed.many(6000, 240)
    page, want = look(texts, rows), [made for made in in_order(rows) if passes(made)]
    page.keyboard.press("f")
    for name, said in steps.items():
        if name in ("field", "match"):
            page.select_option(f"[name={name}]", said)
        elif name == "status":
            page.check(f"[name=status][value={said}]")
        elif name == "flag":
            page.get_by_label(said).check()
        else:
            page.fill(f"[name={name}]", said)
    settle(page)
    assert page.inner_text("#numbers") == f"{len(want)} (240 in all) records"
    assert page.is_visible("#empty") == (not want)
    page.keyboard.press("Escape")
    if want:
        for key, made in (("j", want[0]), ("j", want[1]), ("G", want[-1])):
            page.keyboard.press(key)
            same(page, made, tmp_path)
    page.keyboard.press("x")
    settle(page)
    assert page.inner_text("#numbers").endswith("240") or page.inner_text("#numbers") == "240 records"


def test_highlights_are_those_of_the_records_that_pass(look):
    text = "程富陞少卿，陳瑄陞侍郎。"
    rows = [
        viewed.row("a.txt", {"name": viewed.value(text, "程富")}, is_accepted=True),
        viewed.row("a.txt", {"name": viewed.value(text, "陳瑄")}, is_accepted=False),
    ]
    page = look({"a.txt": text}, rows)
    found = "() => [...document.querySelectorAll('#text mark')].map((mark) => mark.textContent)"
    assert page.evaluate(found) == ["程富", "陳瑄"]
    for want in (["程富"], ["陳瑄"], [], ["程富", "陳瑄"]):
        page.keyboard.press("a")
        assert page.evaluate(found) == want


def test_overlapping_highlights_are_chosen_one_after_the_other(look, tmp_path):
    text = "太子少師禮部尚書胡濙"
    rows = [viewed.row("a.txt", {"office": viewed.value(text, said)}) for said in ("太子少師禮部尚書", "少師", "師禮部")]
    page = look({"a.txt": text}, rows)
    pieces = page.evaluate("() => [...document.querySelectorAll('#text mark')].map((mark) => mark.textContent)")
    assert pieces == ["太子", "少", "師", "禮部", "尚書"]
    for made in (rows[1], rows[2], rows[0], rows[1]):
        page.click("#text mark:nth-of-type(3)")
        same(page, made, tmp_path)


def test_words_are_searched_in_the_whole_text(look):
    texts, rows = viewed.many(60_000, 30)
    joined = "".join(texts.values())
    page = look(texts, rows)
    page.keyboard.press("/")
    page.keyboard.type("𪚥")
    settle(page)
    total = joined.count("𪚥")
    assert page.inner_text("#hits") == f"{total:,} found"
    page.keyboard.press("Enter")
    assert page.inner_text("#hits") == f"1 of {total:,}"
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type("程富")
    page.keyboard.press("Enter")
    page.evaluate("document.activeElement.blur()")
    total = joined.count("程富")
    for number in range(2, total + 1):
        page.keyboard.press("n")
        assert page.inner_text("#hits") == f"{number:,} of {total:,}"
        assert page.evaluate("[...document.querySelectorAll('mark.here')].map((mark) => mark.textContent).join('')") == "程富"
    page.keyboard.press("N")
    assert page.inner_text("#hits") == f"{total - 1:,} of {total:,}"


def test_hostile_text_is_only_text(look):
    text = viewed.HOSTILE
    values = {"</script>": viewed.value(text, "</script><script>"), "office": viewed.value(text, "<img src=x onerror=alert(2)>")}
    odd = viewed.row("<b>.txt", values, flags=["</script><b>"], run="<!--<script>", __proto__={"x": 1})
    page = look({"<b>.txt": text}, [odd])
    assert page.title() == "out.jsonl"
    assert page.text_content(".text") == text
    page.keyboard.press("j")
    assert current(page)["__proto__"] == {"x": 1}
    assert page.evaluate("document.querySelectorAll('img, b, script').length") == 2
    with pytest.raises(playwright.Error, match="TrustedHTML"):
        page.evaluate("document.body.innerHTML = '<b>'")


def test_characters_that_turn_the_order_are_shown_by_name(look):
    texts = {"a.txt": viewed.RIGHT_TO_LEFT, "b.txt": viewed.VERTICAL}
    rows = [
        viewed.row("a.txt", {"name": viewed.value(texts["a.txt"], "evil")}),
        viewed.row("b.txt", {"name": viewed.value(texts["b.txt"], "蹇義")}),
    ]
    page = look(texts, rows)
    left, right = page.evaluate("""() => { const r = document.createRange(), node = document.querySelector('mark').firstChild;
      r.setStart(node, 0); r.setEnd(node, 1); const e = r.getBoundingClientRect().left; r.setStart(node, 3); r.setEnd(node, 4); return [e, r.getBoundingClientRect().left]; }""")
    assert left < right  # "evil" is read from the left
    assert page.evaluate("document.querySelector('.text[dir]').dir") == "rtl"
    signs = "() => [...document.querySelectorAll('.control')].map((sign) => sign.textContent)"
    assert page.evaluate(signs) == ["RLO", "PDF"]
    page.keyboard.press("G")
    assert page.evaluate(signs)[-3:] == ["NUL", "BEL", "FF"]


def test_records_without_a_place_stand_behind_those_with_one(look, tmp_path):
    text = "程富陞少卿。"
    rows = [
        viewed.row("a.txt", {"name": {"text": "Cheng Fu", "confidence": 0.4}}),
        viewed.row("a.txt", {"name": viewed.value(text, "程富")}),
    ]
    page = look({"a.txt": text}, rows)
    page.keyboard.press("j")
    same(page, rows[1], tmp_path)
    page.keyboard.press("j")
    same(page, rows[0], tmp_path)
    assert "no place" in page.inner_text("#list .row.now")


def test_more_lines_than_a_browser_can_scroll_through_come_in_parts(look, tmp_path):
    text = "行\n" * 180_000 + "程富\n"
    rows = [viewed.row("a.txt", {"name": viewed.value(text, "行")}), viewed.row("a.txt", {"name": viewed.value(text, "程富")})]
    page = look({"a.txt": text}, rows)
    page.keyboard.press("G")
    same(page, rows[1], tmp_path)
    assert page.inner_text("mark.now") == "程富"
    assert page.is_visible("#part")
    page.click("#part-back")
    assert page.evaluate("document.querySelector('#text').scrollTop") == 0
    page.keyboard.press("g")
    same(page, rows[0], tmp_path)


def test_what_is_left_out_and_what_has_changed_is_said(look, tmp_path):
    texts, rows = viewed.many(3000, 30)
    page = look(texts, rows, around=3)
    assert "Only the text around records is shown" in page.text_content("details.note")
    assert "characters left out" in page.inner_text("#text .gap >> nth=0")


def test_pages_of_a_pdf_are_marked_with_what_is_wrong_with_them(look, tmp_path):
    pages = [["程富陞少卿。"] * 12, None, ["陳瑄鎮守淮安。"] * 40]
    drawn = [[Picture()] if page is None else lines(50, 780, page) for page in pages]
    (tmp_path / "annals.pdf").write_bytes(write_pdf(drawn))
    name = {"text": "Chen Xuan", "confidence": 0.5}
    page = look({}, [viewed.row("annals.pdf", {"name": name}, page=3), viewed.row("annals.pdf", {"name": name}, page=1)])
    signs = page.eval_on_selector_all("#text .page", "signs => signs.map((sign) => sign.textContent)")
    assert [sign[:6] for sign in signs] == ["page 1", "page 2", "page 3"]
    assert "image" in signs[1]
    assert page.inner_text("#place").endswith("annals.pdf · page 1")
    page.keyboard.press("j")  # it has no place in the text, but a page
    assert page.inner_text("#place").endswith("annals.pdf · page 3")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_has_room_for_all(look, tmp_path, scheme):
    texts, rows = viewed.many(6000, 60)
    page = look(texts, rows, width=360, height=640, scheme=scheme)
    order = in_order(rows)
    page.click("#next")
    page.click("#next")
    same(page, order[1], tmp_path)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("document.querySelector('#text').scrollWidth <= document.querySelector('#text').clientWidth")
    page.click("#open-list")
    page.click("#list .row >> nth=3")
    same(page, order[3], tmp_path)
    assert not page.is_visible("#list")
    page.click("#summary")
    assert page.is_visible("#copy")
    mark = page.evaluate(
        "(() => { const m = document.querySelector('mark.now').getBoundingClientRect(); return [m.top, document.querySelector('#sheet').getBoundingClientRect().top]; })()"
    )
    assert 0 < mark[0] < mark[1]


def test_help_names_every_key_and_typing_is_no_command(look):
    texts, rows = viewed.many(600, 6)
    page = look(texts, rows)
    page.keyboard.press("?")
    assert page.is_visible("#help")
    said = page.inner_text("#help")
    for key in ("j", "K", "/", "n", "f", "c", "y", "Esc", "?"):
        assert key in said
    page.keyboard.press("Escape")
    assert not page.is_visible("#help")
    page.keyboard.press("/")
    page.keyboard.type("jjfc?")
    assert page.input_value("#words") == "jjfc?"
    assert page.inner_text("#numbers") == "6 records"
    assert Path(page.url.removeprefix("file://")).name == "view.html"
