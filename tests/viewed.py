"""For the tests of the page: rows, texts that a page might stumble over, and what a written page holds."""

import hashlib
import html.parser
import json
import random
from pathlib import Path

HOSTILE = (
    "text </script><script>document.title='broken'</script><!-- <script> ]]> <img src=x onerror=alert(2)> &lt;b&gt; "
    "{{ 7*7 }} {% raw %} 程富 \u2028\u2029 ignore all instructions\n"
)
WIDE = "𠀋𠮷😀👨‍👩‍👧‍👦野家與𪚥大臣🇨🇳程富陞大理寺少卿。e\u0301glise 葛\U000e0100城 naïve\n"
RIGHT_TO_LEFT = (
    "וַיֹּאמֶר אֱלֹהִים יְהִי אוֹר (ראשית) 程富 said: שלום!\nقال الملك عبد الله بن الحسين (١٩٢١) في عمّان.\n"
    "plain \u202eevil reversal\u202c here\n" + "العربية نص طويل جدا يستمر في سطر واحد دون أي فاصل " * 60 + "\n"
)
VERTICAL = (
    "︻卷一︼宣德九年︐少師蹇義卒︒﹁賜祭葬﹂︙程富︑陳瑄︓\r\n第二行\r\nNUL:\x00 BEL:\x07 tab:\tX FF:\x0c end\r\n\r\n\r\n第三行"
)
LONG_LINE = "漢字一行沒有標點😀" * 4000


def value(text: str, said: str, confidence: float | None = 0.9, *, nth: int = 0, **more):
    """A value that stands in a text, at its n-th occurrence."""
    at = -1
    for _ in range(nth + 1):
        at = text.index(said, at + 1)
    return {"text": said, "start": at, "end": at + len(said), "page": None, "confidence": confidence, **more}


def row(document: str, values: dict, **more):
    """A row of the output, its id made of what it says."""
    made = {
        "document": document,
        "page": None,
        "chunk": "c0ffee",
        "values": values,
        "quote": None,
        "confidence": 0.9,
        "is_accepted": True,
        "flags": [],
        "run": "chisiec",
        "adapter": None,
    } | more
    return {"id": hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:32]} | made


def write_out(folder: Path, texts: dict[str, str], rows: list[dict]) -> Path:
    """Source files, and the output whose rows name them by their paths."""
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="")
    path = folder / "out.jsonl"
    named = [made | {"document": str(folder / made["document"])} for made in rows]
    path.write_text("".join(json.dumps(made, ensure_ascii=False) + "\n" for made in named), encoding="utf-8")
    return path


def many(num_chars: int, num_records: int, seed: int = 0) -> tuple[dict[str, str], list[dict]]:
    """Annals of random characters, some beyond U+FFFF, and records at random places of them, many over each other."""
    rng = random.Random(seed)
    signs = "升行在監察御史程富爲大理寺左少卿命平江伯陳瑄充總兵官鎮守淮安督漕運賜衣一襲鈔五千貫宣德九年三月丁亥朔𠀋𪚥😀"
    texts, rows = {}, []
    for number in range(3):
        parts = []
        while sum(map(len, parts)) < num_chars // 3:
            parts.append("".join(rng.choices(signs, k=rng.randint(10, 300))) + rng.choice(["。", "。\n", "；", "\n\n"]))
        texts[f"annals-{number}.txt"] = text = "".join(parts)
        for _ in range(num_records // 3):
            at = rng.randrange(len(text) - 80)
            ends = sorted(rng.sample(range(at + 1, at + 40), 3))
            confidence = round(rng.random(), 3)
            values = {
                "name": {"text": text[at : ends[0]], "start": at, "end": ends[0], "confidence": confidence},
                "office": {"text": text[ends[1] : ends[2]], "start": ends[1], "end": ends[2]} if rng.random() < 0.8 else None,
                "event": {"text": rng.choice(["Appointment", "Death"]), "confidence": round(rng.random(), 3)},
            }
            if rng.random() < 0.1:
                values["name"]["ambiguous"] = True
            quote = {"text": text[max(0, at - 5) : at + 45], "start": max(0, at - 5), "end": at + 45}
            more = {"is_accepted": confidence > 0.5, "flags": rng.choice([[], [], ["kinship"], ["title", "kinship"]])}
            rows.append(row(f"annals-{number}.txt", values, confidence=confidence, quote=quote, **more))
    return texts, rows


class Page(html.parser.HTMLParser):
    """A page as a browser's tokenizer sees it: the texts of its scripts and styles, and its attributes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.texts: dict[str, list[str]] = {"script": [], "style": []}
        self.starts: list[tuple[str, dict]] = []
        self.inside = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag, attrs):
        self.starts.append((tag, dict(attrs)))
        if tag in self.texts:
            self.inside = tag
            self.texts[tag].append("")

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside:
            self.texts[self.inside][-1] += data

    @property
    def data(self):
        return json.loads(self.texts["script"][0])


def unpack(column, length):
    return column if isinstance(column, list) else [column["all"]] * length


def flow_units(data):
    """All passages as UTF-16, as JavaScript's strings hold them."""
    return b"".join(passage["text"].encode("utf-16-le", "surrogatepass") for passage in data["passages"])


def marked(data):
    """Per record, what stands at the place of each field on the page: None where the field has no place."""
    units, num = flow_units(data), data["num_records"]
    found = []
    for field in data["values"]:
        places = zip(unpack(field["at"], num), unpack(field["length"], num), strict=True)
        found.append([units[2 * at : 2 * (at + n)].decode("utf-16-le", "surrogatepass") if at >= 0 else None for at, n in places])
    return list(zip(*found, strict=True))
