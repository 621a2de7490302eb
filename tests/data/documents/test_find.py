"""Finding documents: folders in order, everything that is none refused by name, nothing twice, nothing listed ahead."""

import io
import os
import sys
import threading
import tracemalloc
from itertools import islice
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from written_pdfs import Run, write_pdf

from whet.data.documents.document import Document
from whet.data.documents.find import find_documents
from whet.data.documents.source import DocumentSettings, Refused
from whet.errors import InputError

PLAIN = DocumentSettings()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder, **files: str | bytes) -> None:
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def find(*inputs: str, **options) -> list[Document | Refused]:
    return list(find_documents(inputs, DocumentSettings(**options)))


def text(document: Document) -> str:
    return "".join(piece.text for piece in document.pieces())


def test_a_folder_gives_its_files_sorted_and_says_what_is_none(folder):
    write(folder, d__b_txt="二", d__a_md="# 一", d__sub__c_html="<p>三", d__rows_jsonl='{"text": "四"}\n{"x": 1}', d___hidden="x",
          d___git__e_txt="x", d__pic_png=b"\x89PNG\r\n\x1a\n", d__e_txt="", d__x_bin=bytes(99), d__doc_xyz="x",
          d__p_pdf=write_pdf([[Run(50, 800, "五六")]]))  # fmt: skip
    (folder / "d" / "none").mkdir()
    found = find("d")
    names = [item.name for item in found]
    assert names == ["d/a.md", "d/b.txt", "d/doc.xyz", "d/e.txt", "d/p.pdf", "d/pic.png", "d/rows.jsonl:1", "d/rows.jsonl:2",
                     "d/sub/c.html", "d/x.bin"]  # fmt: skip
    assert {item.name: item.reason.split(":")[0] for item in found if isinstance(item, Refused)} == {
        "d/doc.xyz": "is of no known kind (.xyz); name it by itself, or see extract.documents.text_suffixes",
        "d/e.txt": "is empty",
        "d/pic.png": "is a picture (PNG)",
        "d/rows.jsonl:2": "has no key text; it has 'x'",
        "d/x.bin": "is binary",
    }
    documents = [item for item in found if isinstance(item, Document)]
    assert [(item.kind, text(item)) for item in documents] == [
        ("markdown", "# 一"), ("text", "二"), ("pdf", "五六"), ("row", "四"), ("html", "三")
    ]  # fmt: skip


def test_names_are_the_paths_that_were_given(folder):
    write(folder, d__a_txt="x")
    assert [item.name for item in find("./d")] == ["d/a.txt"]
    assert [item.name for item in find(str(folder / "d"))] == [(folder / "d" / "a.txt").as_posix()]
    assert [item.name for item in find("d/a.txt")] == ["d/a.txt"]
    (folder / "d" / os.fsdecode(b"b\xff.txt")).write_text("x")
    assert [item.name for item in find("d")] == ["d/a.txt", "d/b\\xff.txt"]
    assert text(find("d")[1]) == "x"


def test_an_input_that_is_not_there_is_told_before_anything_is_read(folder):
    write(folder, a_txt="x")
    with pytest.raises(InputError, match=r"b.txt: no such file or folder"):
        find_documents(["a.txt", "b.txt"], PLAIN)
    for inputs in ([], [""], ["-", "-"]):
        with pytest.raises(InputError):
            find_documents(inputs, PLAIN)


def test_nothing_is_read_twice(folder):
    write(folder, d__a_txt="x", d__s__b_txt="y", d___h__c_txt="z")
    assert [item.name for item in find("d", "d/a.txt", "d/s", "d", "./d/a.txt", "d/.h")] == ["d/a.txt", "d/s/b.txt", "d/.h/c.txt"]
    assert [item.name for item in find("d/a.txt", "d/s/b.txt", "d/a.txt")] == ["d/a.txt", "d/s/b.txt"]


def test_a_folder_without_files_says_so(folder):
    (folder / "d" / "e").mkdir(parents=True)
    write(folder, d___hidden="x")
    assert find("d") == [Refused("d", "is a folder without files (hidden ones are left out)")]


def test_links_are_followed_only_where_nothing_is_lost_or_left(folder):
    write(folder, d__a_txt="x", d___store__b_txt="y", out_txt="z", outside__c_txt="z")
    for name, target in {"in.txt": "a.txt", "kept.txt": ".store/b.txt", "out.txt": "../out.txt", "dir": "../outside",
                         "loop": ".", "broken.txt": "nothing.txt", "store": ".store"}.items():  # fmt: skip
        (folder / "d" / name).symlink_to(target)
    found = {item.name: getattr(item, "reason", None) or text(item) for item in find("d")}
    assert found == {
        "d/a.txt": "x",
        "d/kept.txt": "y",
        "d/in.txt": "is a link to a.txt, which is read under that name",
        "d/loop": "is a link to ., which is read under that name",
        "d/broken.txt": "is a link to nothing",
        "d/store": "is a link to a hidden folder, .store; name that to have it read",
        "d/out.txt": f"is a link that leaves the folder, to {folder}/out.txt; name that to have it read",
        "d/dir": f"is a link that leaves the folder, to {folder}/outside; name that to have it read",
    }
    (folder / "to").symlink_to("d")
    assert [item.name for item in find("to/a.txt")] == ["to/a.txt"]
    assert "to/a.txt" in [item.name for item in find("to")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_may_not_be_read_is_refused(folder):
    write(folder, d__a_txt="x", d__s__b_txt="y")
    (folder / "d" / "a.txt").chmod(0)
    (folder / "d" / "s").chmod(0)
    assert find("d") == [
        Refused("d/a.txt", "can't be read (Permission denied)"),
        Refused("d/s", "can't be read (Permission denied)"),
    ]


def test_a_fault_of_the_disk_is_refused(folder, monkeypatch):
    write(folder, d__a_txt="x", d__b_txt="y")
    real = type(folder).open

    def faulty(path, *args, **options):
        if path.name == "a.txt":
            raise OSError(5, "Input/output error")
        return real(path, *args, **options)

    monkeypatch.setattr(type(folder), "open", faulty)
    first, second = find("d")
    assert first == Refused("d/a.txt", "can't be read (Input/output error)")
    assert text(second) == "y"


def test_pipes_are_never_waited_for_in_a_folder_but_read_when_named(folder):
    os.mkfifo(folder / "p")
    assert find(".") == [Refused("p", "is no file but a device, pipe or socket")]
    writer = threading.Thread(target=lambda: (folder / "p").write_text("永樂"))
    writer.start()
    (found,) = find("p")
    writer.join()
    assert text(found) == text(found) == "永樂"


@pytest.mark.parametrize(
    ("content", "kind", "wanted", "options"),
    [("永樂二年".encode("gb18030"), "text", "永樂二年", {}), (b"<html><p>x</p>y", "html", "x\ny", {}), (write_pdf([[Run(9, 9, "xyz")]]), "pdf", "xyz", {}),
     (b"# x", "markdown", "x", {"kind": "markdown", "markdown": "plain"})],
)  # fmt: skip
def test_standard_input_is_read_like_a_file_as_often_as_asked(monkeypatch, content, kind, wanted, options):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    (found,) = find("-", **options)
    assert (found.name, found.path, found.kind, found.num_bytes) == ("-", None, kind, len(content))
    assert text(found) == text(found) == wanted
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    assert find("-", **options)[0].stamp == found.stamp


def test_rows_and_nothing_come_from_standard_input_too(monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b'{"text": "x"}\n{"text": 1}\n')))
    assert [item.name for item in find("-")] == ["-:1", "-:2"]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"text\tb\nx,y\tz\n")))
    assert [text(item) for item in find("-", kind="tsv")] == ["x,y"]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"")))
    assert find("-") == [Refused("-", "is empty")]


def test_pdfs_that_can_t_be_opened_are_refused(folder):
    whole = write_pdf([[Run(9, 9, "xyz")]], password="p")
    write(folder, d__a_pdf=whole, d__b_pdf=whole[: len(whole) // 2])
    first, second = find("d")
    assert first.reason.startswith("is encrypted. Put its password into an environment variable")
    assert second.reason.startswith("is damaged: it begins as a PDF")


def test_a_folder_streams(folder, monkeypatch):
    for number in range(300):
        (folder / f"{number:03}.txt").write_text("x")
    opened = []
    real = type(folder).open
    monkeypatch.setattr(
        type(folder), "open", lambda path, *args, **options: (opened.append(path), real(path, *args, **options))[1]
    )
    found = find_documents(["."], PLAIN)
    assert [item.name for item in islice(found, 3)] == ["000.txt", "001.txt", "002.txt"]
    assert len(opened) == 3
    tracemalloc.start()
    assert sum(1 for _ in found) == 297
    assert tracemalloc.get_traced_memory()[1] < 400_000
    tracemalloc.stop()


def test_folders_may_be_nested_deeply(folder):
    path = folder / "d"
    for _ in range(300):
        path = path / "s"
    path.mkdir(parents=True)
    (path / "a.txt").write_text("x")
    (found,) = find("d")
    assert text(found) == "x"


@given(st.binary(max_size=400), st.sampled_from(["a.txt", "a.pdf", "a.html", "a.md", "a.jsonl", "a.json", "a.csv", "a.tsv", "a"]))
def test_any_bytes_under_any_name_are_read_or_refused(tmp_path_factory, content, name):
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(content if not name.endswith("pdf") else b"%PDF-1.7\n" + content)
    for item in find_documents([str(path)], PLAIN):
        if isinstance(item, Document):
            try:
                pieces = list(item.pieces())
            except InputError:
                continue
            assert [piece.start for piece in pieces] == [sum(len(p.text) for p in pieces[:n]) for n in range(len(pieces))]
