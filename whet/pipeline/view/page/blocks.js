// Cuts the flow into the blocks that are drawn: whole lines, and long lines at the end of a sentence.

const BLOCK_UNITS = 700;
const BLOCK_LINES = 24;
const PART_LINES = 150000; // lines of a narrow screen that one scrolled height can hold in every browser
const NARROW = 18; // characters a line there
const FIRST_STRONG = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]|\p{L}/u;
const RIGHT_TO_LEFT = /^[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u;
const SENTENCE_ENDS = /[。！？；.!?;…︒︕︖︔][」』”’）)﹂﹄]*/gu;

const graphemes = typeof Intl !== "undefined" && Intl.Segmenter ? new Intl.Segmenter(undefined, { granularity: "grapheme" }) : null;

/** The nearest place at or before `at` that stands inside no character as readers see them. */
function backToCharacter(text, at) {
  const from = Math.max(0, at - 64);
  if (graphemes) {
    const found = graphemes.segment(text.slice(from, at + 64)).containing(at - from);
    if (found && found.index > 0) return from + found.index;
  }
  return isLow(text.charCodeAt(at)) && isHigh(text.charCodeAt(at - 1)) ? at - 1 : at;
}

/** Where a block that begins at `start` ends, and whether it ends inside a line. */
function blockEnd(text, start, limit) {
  let end = start;
  for (let lines = 0; lines < BLOCK_LINES; lines++) {
    const next = text.indexOf("\n", end) + 1;
    if (next === 0 || next > limit) {
      if (limit - start <= BLOCK_UNITS * 1.25) return [limit, false];
      break;
    }
    if (next - start > BLOCK_UNITS) break;
    end = next;
    if (end === limit) return [end, false];
  }
  if (end > start) return [end, false];
  const line = text.indexOf("\n", start) + 1;
  const lineEnd = line === 0 ? limit : Math.min(line, limit);
  if (lineEnd - start <= BLOCK_UNITS * 1.25) return [lineEnd, false];
  const window = text.slice(start, start + BLOCK_UNITS);
  let cut = 0;
  for (const found of window.matchAll(SENTENCE_ENDS)) cut = found.index + found[0].length;
  if (cut < BLOCK_UNITS / 2 || cut === window.length) cut = Math.max(cut, window.lastIndexOf(" ") + 1);
  if (cut < BLOCK_UNITS / 2) cut = BLOCK_UNITS;
  return [Math.max(start + 1, backToCharacter(text, start + cut)), true];
}

/** How wide and how many lines a piece of text is: ems (a Han character is one) and line ends. */
function extent(text, start, end) {
  let halves = 0, lines = 0;
  for (let i = start; i < end; i++) {
    const unit = text.charCodeAt(i);
    if (unit === 10) lines++;
    else if (!isLow(unit)) halves += unit < 0x2e80 ? 1 : 2;
  }
  if (end > start && text.charCodeAt(end - 1) !== 10) lines++;
  return { ems: halves / 2, lines };
}

/** The blocks of one passage. `document` is set on the first block of a document, `gap` where text is left out before it. */
function cutPassage(passage) {
  const blocks = [], text = passage.text;
  let start = 0, isInside = false, direction = "";
  const pages = [...passage.pages];
  do {
    const marks = [];
    while (pages.length && pages[0].at <= start) marks.push(pages.shift());
    const limit = pages.length ? pages[0].at : text.length;
    const [end, isCut] = start < limit ? blockEnd(text, start, limit) : [limit, false];
    if (!isInside && isCut) direction = directionOf(text, start);
    blocks.push({
      passage, start, end, at: passage.base + start, until: passage.base + end, pages: marks,
      isCut, direction: isInside || isCut ? direction : "", document: -1, gap: 0, isLast: false, ...extent(text, start, end),
    });
    isInside = isCut;
    start = end;
  } while (start < text.length || pages.length);
  return blocks;
}

function directionOf(text, start) {
  const line = text.slice(start, start + 2000), found = line.match(FIRST_STRONG);
  return found && RIGHT_TO_LEFT.test(found[0]) ? "rtl" : "ltr";
}

/** All blocks of the store's documents, those without text included (their heads stand for them). */
function cutDocuments(store) {
  const blocks = [];
  let flow = 0;
  store.documents.forEach((document, number) => {
    const first = blocks.length;
    let before = 0;
    for (const passage of document.passages) {
      const cut = cutPassage(passage);
      cut[0].gap = passage.start - before;
      before = passage.codePoint(passage.end);
      for (const block of cut) blocks.push(block);
      flow = passage.end;
    }
    if (blocks.length === first) {
      blocks.push({
        passage: null, start: 0, end: 0, at: flow, until: flow, pages: [],
        isCut: false, direction: "", document: -1, gap: 0, isLast: false, ems: 0, lines: 0,
      });
    }
    blocks[first].document = number;
    blocks[blocks.length - 1].isLast = document.goesOn;
    for (let i = first; i < blocks.length; i++) blocks[i].owner = number;
  });
  return blocks;
}

/** Cuts blocks into parts that a browser can scroll through: [first, end) of each. */
function cutParts(blocks) {
  const parts = [];
  let first = 0, lines = 0;
  blocks.forEach((block, i) => {
    lines += block.lines + block.ems / NARROW + 3;
    if (lines > PART_LINES) { parts.push([first, i + 1]); first = i + 1; lines = 0; }
  });
  if (first < blocks.length || !parts.length) parts.push([first, blocks.length]);
  return parts;
}
