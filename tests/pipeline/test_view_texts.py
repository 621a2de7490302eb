"""From an extraction to its page: every kind of source is read again as the extraction read it."""

import io
import json
import os
from pathlib import Path

import pytest
from scripted_reading import Reader, answering
from viewed import Page, marked
from written_pdfs import Picture, lines, write_pdf

from whet.errors import InputError
from whet.extract.targets import Targets
from whet.pipeline.extract_step import Order, extract
from whet.pipeline.view.write import ViewSettings, write_view


def read(run: Path, *inputs: str, settings: tuple[str, ...] = ()) -> Path:
    out = run.parent / "out.jsonl"
    extract(Order(inputs, run, Targets(out), settings), answering=answering(Reader()))
    return out


def look(out: Path, **settings) -> dict:
    write_view(out, out.with_suffix(".html"), ViewSettings(**settings))
    return Page(out.with_suffix(".html")).data


def test_pages_of_a_pdf_are_marked_and_those_without_text_say_why(run, tmp_path):
    pages = [lines(50, 780, ["是日Gong<蹇義>卒。"]), [Picture()], lines(50, 780, ["大雨。", "<于謙>巡撫河南。"])]
    (tmp_path / "a.pdf").write_bytes(write_pdf(pages))
    data = look(read(run, str(tmp_path / "a.pdf")))
    [passage] = data["passages"]
    assert [page[1] for page in passage["pages"]] == [1, 2, 3]
    assert ["image" in page[2] for page in passage["pages"]] == [False, True, False]
    assert passage["text"][passage["pages"][2][0] :].startswith("大雨")
    assert [said[:2] for said in marked(data)] == [("蹇義", "Gong"), ("于謙", None)]


def test_rows_of_a_file_are_found_again_by_their_own_names(run, tmp_path):
    texts = {"a:1#x": "是日<蹇義>卒。", "b": "無", "c/d.txt": "<𠮷謙>至。😀<于謙>"}
    path = tmp_path / "rows#1.jsonl"
    path.write_text("".join(json.dumps({"id": id_, "body": text}) + "\n" for id_, text in texts.items()), encoding="utf-8")
    out = read(run, str(path), settings=("extract.documents.text_column=body", "extract.documents.id_column=id"))
    data = look(out)
    assert [document["name"] for document in data["documents"]] == [f"{path}#a:1#x", f"{path}#c/d.txt"]
    assert [passage["text"] for passage in data["passages"]] == [texts["a:1#x"], texts["c/d.txt"]]
    assert [name for name, *_ in marked(data)] == ["蹇義", "𠮷謙", "于謙"]
    path.write_text(json.dumps({"id": "b", "body": "無"}) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"rows#1\.jsonl#a:1#x: this document can't be read any more: its file has no such row"):
        look(out)


def test_a_file_in_a_declared_encoding_is_read_in_it(run, tmp_path):
    text = "是日Gong<蹇義>卒。\r\n朝鮮<于謙>至。"
    (tmp_path / "a.txt").write_bytes(text.encode("gb18030"))
    data = look(read(run, str(tmp_path / "a.txt"), settings=("extract.documents.encoding=gb18030",)))
    assert [name for name, *_ in marked(data)] == ["蹇義", "于謙"]


def test_html_is_shown_as_the_text_that_was_read_of_it(run, tmp_path):
    (tmp_path / "a.html").write_text("<h1>卷一</h1><script>x</script><p>是日&lt;蹇義&gt;卒。</p>", encoding="utf-8")
    data = look(read(run, str(tmp_path / "a.html")))
    assert [name for name, *_ in marked(data)] == ["蹇義"]
    assert "script" not in data["passages"][0]["text"]


def test_a_folder_is_shown_in_the_order_in_which_it_was_read(run, tmp_path):
    (tmp_path / "corpus").mkdir()
    for name in ("b.txt", "a.txt", "c.txt"):
        (tmp_path / "corpus" / name).write_text(f"是日<{name[0]}>卒。", encoding="utf-8")
    data = look(read(run, str(tmp_path / "corpus")))
    assert [Path(document["name"]).name for document in data["documents"]] == ["a.txt", "b.txt", "c.txt"]


def test_a_file_that_can_not_be_read_any_more_says_why(run, tmp_path):
    (tmp_path / "a.pdf").write_bytes(write_pdf([lines(50, 780, ["是日<蹇義>卒。"])]))
    out = read(run, str(tmp_path / "a.pdf"))
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.7 broken")
    with pytest.raises(InputError, match=r"a\.pdf: this document can't be read any more: .*damaged"):
        look(out)
    (tmp_path / "a.pdf").unlink()
    with pytest.raises(InputError, match="there is no such file; paths are taken from the folder you stand in"):
        look(out)


def test_standard_input_is_kept_for_the_page(run, tmp_path, monkeypatch):
    kept = tmp_path / "out.jsonl.state" / "standard-input"
    for settings, given in ((), "是日<蹇義>卒。"), (("extract.documents.kind=json",), '{"text": "雨"}\n{"text": "<于謙>至。"}\n'):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
        order = Order(("-",), run, Targets(tmp_path / "out.jsonl"), settings, is_anew=True)
        extract(order, answering=answering(Reader()))
        data = look(tmp_path / "out.jsonl")
        assert [name for name, *_ in marked(data)] == [given.partition("<")[2].partition(">")[0]]
        assert kept.read_text(encoding="utf-8") == given
    assert [document["name"] for document in data["documents"]] == ["-:2"]
    # One that gives no text changes nothing: neither the output nor what it was made of.
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(InputError, match="is empty"):
        read(run, "-", settings=settings)
    assert look(tmp_path / "out.jsonl")["num_records"] == 1
    kept.unlink()
    with pytest.raises(InputError, match="-:2: this document can't be read any more: it came from standard input"):
        look(tmp_path / "out.jsonl")
    assert (data := look(tmp_path / "out.jsonl", allow_changed=True))["num_records"] == 1
    assert data["passages"] == []


def test_a_page_is_written_while_an_extraction_is_at_work(run, tmp_path):
    from whet.extract.state import State

    (tmp_path / "a.txt").write_text("是日<蹇義>卒。", encoding="utf-8")
    out = read(run, str(tmp_path / "a.txt"))
    state = State(tmp_path / "out.jsonl.state")
    state.set_fact("passes", 9)  # a transaction is open
    assert look(out)["num_records"] == 1
    state.close()


def test_paths_are_taken_from_the_folder_one_stands_in(run, tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("是日<蹇義>卒。", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    out = read(run, "a.txt")
    assert look(out)["documents"] == [{"name": "a.txt", "goes_on": False}]
    os.chdir(tmp_path / "run")
    with pytest.raises(InputError, match=r"^a\.txt: this document can't be read any more"):
        look(out)
