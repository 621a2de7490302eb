"""A small writer of PDFs for tests: runs of text at places, pictures, passwords, all by the letter of the standard (ISO 32000-1)."""

import hashlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 595, 842
_PAD = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")


@dataclass(frozen=True)
class Run:
    """Text whose first baseline point is (x, y) in points from the lower left; characters advance to the right."""

    x: float
    y: float
    text: str
    size: float = 10


@dataclass(frozen=True)
class Picture:
    """A grey picture of one pixel, drawn over the whole page."""


@dataclass(frozen=True)
class Drawn:
    """Content as it is."""

    content: bytes


Page = Sequence[Run | Picture | Drawn]


def lines(x: float, y: float, texts: Sequence[str], size: float = 10, leading: float = 14) -> list[Run]:
    """One run a line, downwards from y."""
    return [Run(x, y - number * leading, text, size) for number, text in enumerate(texts)]


def write_pdf(
    pages: Sequence[Page], password: str | None = None, owner: str = "owner", packed: bool = True, is_upright: bool = False
) -> bytes:
    """A PDF of these pages. Every glyph of its font is one box; a ToUnicode map turns the codes into text.

    A character is 1,000 units wide, one of ASCII 500. password: the user's, for RC4 of 128 bits. With is_upright text
    runs downwards (Identity-V).
    """
    characters = sorted({char for page in pages for item in page if isinstance(item, Run) for char in item.text})
    codes = {char: number for number, char in enumerate(characters, 1)}
    objects: dict[int, bytes] = {}
    streams: dict[int, tuple[bytes, bytes]] = {}
    first = 11
    kids = " ".join(f"{first + 2 * number} 0 R" for number in range(len(pages)))
    objects[1] = b"<< /Type /Catalog /Pages 2 0 R >>"
    objects[2] = f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode()
    objects[3] = (
        "<< /Type /Font /Subtype /Type0 /BaseFont /Test /DescendantFonts [4 0 R] /ToUnicode 6 0 R "
        f"/Encoding /Identity-{'V' if is_upright else 'H'} >>"
    ).encode()
    widths = " ".join(f"{code} [500]" for char, code in codes.items() if char < "\x80")
    objects[4] = (
        "<< /Type /Font /Subtype /CIDFontType2 /BaseFont /Test /CIDSystemInfo << /Registry (Adobe) /Ordering (Identity) "
        f"/Supplement 0 >> /FontDescriptor 5 0 R /DW 1000 /W [{widths}] /CIDToGIDMap 9 0 R >>"
    ).encode()
    objects[5] = (
        b"<< /Type /FontDescriptor /FontName /Test /Flags 4 /FontBBox [0 -200 1000 800] /ItalicAngle 0 /Ascent 800 "
        b"/Descent -200 /CapHeight 700 /StemV 80 /FontFile2 8 0 R >>"
    )
    streams[6] = (b"", _to_unicode(codes))
    streams[7] = (
        b"/Type /XObject /Subtype /Image /Width 1 /Height 1 /ColorSpace /DeviceGray /BitsPerComponent 8 ", b"\x80"
    )  # fmt: skip
    streams[8] = (b"", _font())
    streams[9] = (b"", b"\0\0" + b"\0\1" * len(codes))
    for number, page in enumerate(pages):
        at = first + 2 * number
        objects[at] = (
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {WIDTH} {HEIGHT}] /Contents {at + 1} 0 R "
            "/Resources << /Font << /F 3 0 R >> /XObject << /P 7 0 R >> >> >>"
        ).encode()
        streams[at + 1] = (b"", b"\n".join(_draw(item, codes) for item in page))
    key, trailer = b"", b""
    if password is not None:
        identity = hashlib.md5(b"an identity").digest()
        key, entry = _encryption(password, owner, identity)
        objects[10] = entry
        trailer = b"/Encrypt 10 0 R /ID [<" + identity.hex().encode() + b"> <" + identity.hex().encode() + b">] "
    for number, (entries, content) in streams.items():
        coded = zlib.compress(content) if packed else content
        filters = b"/Filter /FlateDecode " if packed else b""
        if key:
            own = hashlib.md5(key + number.to_bytes(3, "little") + b"\0\0").digest()
            coded = _rc4(own, coded)
        objects[number] = b"<< %s%s/Length %d >>\nstream\n%s\nendstream" % (entries, filters, len(coded), coded)
    return _assemble(objects, trailer)


def _assemble(objects: dict[int, bytes], trailer: bytes) -> bytes:
    out = bytearray(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n")
    places = {}
    for number in sorted(objects):
        places[number] = len(out)
        out += b"%d 0 obj\n%s\nendobj\n" % (number, objects[number])
    table, size = len(out), max(objects) + 1
    out += b"xref\n0 %d\n0000000000 65535 f \n" % size
    for number in range(1, size):
        out += b"%010d 00000 n \n" % places[number] if number in places else b"0000000000 65535 f \n"
    return bytes(out + b"trailer\n<< /Size %d /Root 1 0 R %s>>\nstartxref\n%d\n%%%%EOF\n" % (size, trailer, table))


def _draw(item: Run | Picture | Drawn, codes: dict[str, int]) -> bytes:
    if isinstance(item, Drawn):
        return item.content
    if isinstance(item, Picture):
        return b"q %d 0 0 %d 0 0 cm /P Do Q" % (WIDTH, HEIGHT)
    shown = "".join(f"{codes[char]:04X}" for char in item.text)
    return f"BT /F {item.size} Tf 1 0 0 1 {item.x} {item.y} Tm <{shown}> Tj ET".encode()


def _to_unicode(codes: dict[str, int]) -> bytes:
    rows = [f"<{code:04X}> <{char.encode('utf-16-be').hex()}>" for char, code in codes.items()]
    blocks = [rows[at : at + 100] for at in range(0, len(rows), 100)]
    body = "\n".join(f"{len(block)} beginbfchar\n" + "\n".join(block) + "\nendbfchar" for block in blocks)
    return (
        "/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /T def /CMapType 2 def\n"
        f"1 begincodespacerange <0000> <FFFF> endcodespacerange\n{body}\nendcmap end end"
    ).encode()


def _font() -> bytes:
    """A TrueType font of two glyphs: nothing, and a box from (50, -100) to (450, 700) of 1,000 units."""
    box = struct.pack(">5h", 1, 50, -100, 450, 700) + struct.pack(">HH", 3, 0) + b"\1" * 4
    box += struct.pack(">4h", 50, 0, 400, 0) + struct.pack(">4h", -100, 800, 0, -800)
    tables = {
        b"glyf": box,
        b"head": struct.pack(
            ">IIIIHHqqhhhhHHhhh", 0x10000, 0x10000, 0, 0x5F0F3CF5, 0, 1000, 0, 0, 50, -100, 450, 700, 0, 8, 2, 1, 0
        ),
        b"hhea": struct.pack(">IhhhHhhhhhhhhhhhH", 0x10000, 800, -200, 0, 1000, 0, 0, 1000, 1, 0, 0, 0, 0, 0, 0, 0, 2),
        b"hmtx": struct.pack(">HhHh", 1000, 0, 1000, 50),
        b"loca": struct.pack(">III", 0, 0, len(box)),
        b"maxp": struct.pack(">IHHHHHHHHHHHHHH", 0x10000, 2, 4, 1, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0),
    }
    out, body, at = struct.pack(">IHHHH", 0x10000, len(tables), 64, 2, 32), b"", 12 + 16 * len(tables)
    for name, table in sorted(tables.items()):
        out += name + struct.pack(">III", 0, at + len(body), len(table))
        body += table + bytes(-len(table) % 4)
    return out + body


def _encryption(password: str, owner: str, identity: bytes) -> tuple[bytes, bytes]:
    """The file's key and its encryption dictionary: standard handler, revision 3 (algorithms 2, 3 and 5)."""

    def padded(text: str) -> bytes:
        return (text.encode("latin-1") + _PAD)[:32]

    def nineteen(key: bytes, value: bytes) -> bytes:
        for number in range(20):
            value = _rc4(bytes(byte ^ number for byte in key), value)
        return value

    digest = hashlib.md5(padded(owner)).digest()
    for _ in range(50):
        digest = hashlib.md5(digest).digest()
    of_owner = nineteen(digest, padded(password))
    rights = -44
    key = hashlib.md5(padded(password) + of_owner + rights.to_bytes(4, "little", signed=True) + identity).digest()
    for _ in range(50):
        key = hashlib.md5(key).digest()
    of_user = nineteen(key, hashlib.md5(_PAD + identity).digest()) + bytes(16)
    return key, (f"<< /Filter /Standard /V 2 /R 3 /Length 128 /P {rights} /O <{of_owner.hex()}> /U <{of_user.hex()}> >>").encode()


def _rc4(key: bytes, value: bytes) -> bytes:
    state = list(range(256))
    j = 0
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    out, i, j = bytearray(), 0, 0
    for byte in value:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(out)
