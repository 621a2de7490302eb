"""How fast the page of an extraction is: written, painted, walked through by key, scrolled, searched and filtered.

Random annals of so many characters, and records at random places in them, are put on a page by `write_view`, and Chromium opens
it from the disk. A latency is the time from a key, a scroll or a typed word to the end of the frame that shows what it changed
(requestAnimationFrame and a task behind it). Narrow is a telephone's screen with the processor slowed down four times.
Without playwright and Chromium only the writing is measured, and the script says so.

The last line is a JSON object: write_s, page_mb, and for "wide" and "narrow" each first_paint_ms, drawn_ms (records and text are
there), and [median, 95th percentile] in ms of next_record, next_document, link, scroll, leap (to a random place), search and
filter, and most_elements in the document. `--quick` takes a tenth of the characters and records.
"""

import argparse
import json
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from whet.pipeline.view.write import ViewSettings, write_view

SIGNS = "升行在監察御史程富爲大理寺左少卿命平江伯陳瑄充總兵官鎮守淮安督漕運賜衣一襲鈔五千貫宣德九年三月丁亥朔上御奉天門視朝𠀋𪚥"
EVENTS = ("Appointment", "Military", "Diplomacy", "Disaster", "Death", "Other")
MEASURE = """async ({times}) => {
  const found = {}, root = document.querySelector('#text'), words = document.querySelector('#words');
  let most = 0;
  const take = async (name, act, times) => {
    const taken = [];
    for (let i = 0; i < times; i++) {
      const start = performance.now();
      act(i);
      await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
      taken.push(performance.now() - start);
      most = Math.max(most, document.querySelectorAll('*').length);
    }
    taken.sort((a, b) => a - b);
    found[name] = [taken[taken.length >> 1], taken[Math.floor(taken.length * 0.95)]].map((ms) => Math.round(10 * ms) / 10);
  };
  const press = (key) => document.body.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
  const ids = JSON.parse(document.querySelector('#data').textContent).records.id;
  let seed = 1;
  const random = () => (seed = (seed * 16807) % 2147483647) / 2147483647;
  await take('next_record', () => press('j'), times);
  await take('next_document', (i) => press(i % 8 < 4 ? 'J' : 'K'), times / 4);
  await take('link', () => { location.hash = '#record=' + ids[Math.floor(random() * ids.length)]; }, times / 2);
  root.scrollTop = 0;
  await take('scroll', () => { root.scrollTop += 120; }, times);
  await take('leap', () => { root.scrollTop = random() * root.scrollHeight; }, times / 2);
  // What waits for a pause in typing (150 and 120 ms) is taken without the pause.
  const now = globalThis.setTimeout;
  const hurried = (act) => { globalThis.setTimeout = (run, ms) => (ms ? run() : now(run)); act(); globalThis.setTimeout = now; };
  const type = (input, said) => {
    input.value = said;
    hurried(() => input.dispatchEvent(new Event('input', { bubbles: true })));
  };
  await take('search', (i) => type(words, ['程富', '程', 'x', '陳瑄充'][i % 4]), times / 8);
  const value = document.querySelector('#filters [name=words]');
  await take('filter', (i) => type(value, ['程', '程富', 'Death', ''][i % 4]), times / 8);
  return { ...found, most_elements: most };
}"""


def write_corpus(folder: Path, num_chars: int, num_records: int, num_documents: int = 10) -> Path:
    """Annals as text files, and an output with records at random places of them."""
    rng = random.Random(0)
    with (folder / "out.jsonl").open("w", encoding="utf-8") as file:
        for document in range(num_documents):
            lines, left = [], num_chars // num_documents
            while left > 0:
                line = "".join(rng.choices(SIGNS, k=min(left - 1, rng.randint(30, 300)))) + rng.choice("。。\n")
                lines.append(line)
                left -= len(line)
            text, path = "".join(lines), folder / f"annals-{document}.txt"
            path.write_text(text, encoding="utf-8", newline="")
            for _ in range(num_records // num_documents):
                file.write(json.dumps(make_row(rng, str(path), text), ensure_ascii=False) + "\n")
    return folder / "out.jsonl"


def make_row(rng: random.Random, document: str, text: str) -> dict[str, Any]:
    at = rng.randrange(len(text) - 60)
    bounds = [at, at + rng.randint(2, 3), at + 4, at + rng.randint(5, 10), at + 12, at + 14]

    def value(start: int, end: int) -> dict[str, Any]:
        return {"text": text[start:end], "start": start, "end": end, "page": None, "confidence": round(rng.random(), 4)}

    values: dict[str, Any] = {"name": value(*bounds[:2]), "office": value(*bounds[2:4]), "time": value(*bounds[4:])}
    values["event_type"] = {"text": rng.choice(EVENTS), "confidence": round(rng.random(), 4)}
    if rng.random() < 0.3:
        values["office"] = None
    quote = {"text": text[at : at + 30], "start": at, "end": at + 30}
    confidence = round(rng.random(), 4)
    facts = {"confidence": confidence, "is_accepted": confidence > 0.3, "flags": rng.choice([[], [], [], ["kinship"]])}
    names = {"id": f"{rng.getrandbits(128):032x}", "document": document, "page": None, "chunk": f"{at // 800:032x}"}
    return names | {"values": values, "quote": quote} | facts | {"run": "annals", "adapter": "3f9a"}


def measure(page_path: Path, browser: Any, is_narrow: bool, times: int) -> dict[str, Any]:
    """What a browser takes for one page."""
    size = {"width": 390, "height": 800} if is_narrow else {"width": 1360, "height": 850}
    context = browser.new_context(viewport=size)
    page = context.new_page()
    if is_narrow:
        context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": 4})
    page.goto(page_path.as_uri())
    page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length > 0")
    time_of = "(name) => Math.round(performance.getEntriesByName(name)[0].startTime)"
    found = {"first_paint_ms": page.evaluate(time_of, "first-contentful-paint"), "drawn_ms": page.evaluate(time_of, "whet-drawn")}
    page.wait_for_timeout(1000)
    found |= page.evaluate(MEASURE, {"times": times})
    context.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the characters and records")
    scale = 10 if parser.parse_args().quick else 1
    with tempfile.TemporaryDirectory() as folder:
        out = write_corpus(Path(folder), 1_000_000 // scale, 50_000 // scale)
        page = Path(folder) / "view.html"
        taken = []
        for _ in range(3):
            start = time.perf_counter()
            viewed = write_view(out, page, ViewSettings())
            taken.append(time.perf_counter() - start)
        found: dict[str, Any] = {"num_chars": viewed.num_chars, "num_records": viewed.num_records}
        found |= {"write_s": round(statistics.median(taken), 2), "page_mb": round(page.stat().st_size / 1e6, 2)}
        print(f"{viewed.num_records:,} records, {viewed.num_chars:,} characters: {found['page_mb']} MB in {found['write_s']} s")
        chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        try:
            from playwright.sync_api import sync_playwright
        except ImportError:
            chromium = None
        if chromium is None:
            print("no browser: the page was written, not looked at. It takes Chromium on the path, and: pip install playwright")
            print(json.dumps(found | {"wide": None, "narrow": None}))
            return
        with sync_playwright() as running:
            browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            for name, is_narrow in (("wide", False), ("narrow", True)):
                found[name] = measure(page, browser, is_narrow, 200)
                print(name, found[name])
            browser.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
