// The source text: only the blocks on screen are drawn; all others are a height, guessed until it is measured.

/** An element with its properties and children; text goes in as text nodes only. */
function make(tag, properties = {}, ...children) {
  const { dataset, attributes, ...rest } = properties;
  const element = Object.assign(document.createElement(tag), rest);
  Object.assign(element.dataset, dataset);
  for (const [name, value] of Object.entries(attributes ?? {})) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const count = (number) => number.toLocaleString("en");

// Shown by name: control characters, and those that would turn the order of what stands behind them.
const CONTROL = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/;
const C0_NAMES = "NUL SOH STX ETX EOT ENQ ACK BEL BS TAB LF VT FF CR SO SI DLE DC1 DC2 DC3 DC4 NAK SYN ETB CAN EM SUB ESC FS GS RS US".split(" ");
const CONTROL_NAMES = {
  0x202a: "LRE", 0x202b: "RLE", 0x202c: "PDF", 0x202d: "LRO", 0x202e: "RLO", 0x2066: "LRI", 0x2067: "RLI", 0x2068: "FSI", 0x2069: "PDI",
};

function nameControl(unit) {
  if (unit < 0x20) return C0_NAMES[unit];
  return unit === 0x7f ? "DEL" : CONTROL_NAMES[unit] ?? unit.toString(16).toUpperCase();
}

/** Text nodes, with control characters as small signs; a line end of two characters shows none. */
function textNodes(text) {
  if (!CONTROL.test(text)) return [text];
  const nodes = [];
  let plain = "";
  for (let i = 0; i < text.length; i++) {
    if (!CONTROL.test(text[i])) { plain += text[i]; continue; }
    if (text[i] === "\r" && text[i + 1] === "\n") continue;
    if (plain) nodes.push(plain);
    plain = "";
    nodes.push(make("span", { className: "control", textContent: nameControl(text.charCodeAt(i)) }));
  }
  if (plain) nodes.push(plain);
  return nodes;
}

const OVERSCAN = 600; // pixels drawn above and below the screen
const COLORS = 8;

class TextPane {
  /** `state` has what is shown: isShown, current, hits, currentHit. `onPlace` hears which block stands at the top. */
  constructor(root, store, marks, state, onPlace) {
    Object.assign(this, { root, store, marks, state, onPlace });
    this.space = root.querySelector(".space");
    this.window = root.querySelector(".window");
    this.drawn = new Map();
    this.allBlocks = cutDocuments(store);
    this.show(this.allBlocks);
    root.addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.resize()).observe(root);
  }

  /** Show the documents that pass, from the first one on. */
  showDocuments(isShownDocument) {
    this.show(this.allBlocks.filter((block) => isShownDocument(block.owner)));
  }

  show(blocks) {
    this.blocks = blocks;
    this.parts = cutParts(blocks);
    this.openPart(0);
  }

  openPart(part) {
    this.part = part;
    [this.from, this.to] = this.parts[part];
    this.clear();
    this.heights = new Float64Array(this.to - this.from);
    this.isMeasured = new Uint8Array(this.to - this.from);
    this.tops = new Float64Array(this.to - this.from + 1);
    this.guess();
    this.root.scrollTop = 0;
    this.draw();
  }

  /** Guess the heights that are not measured, from the pane's width and the size of its font. */
  guess() {
    const style = getComputedStyle(this.window), em = parseFloat(style.fontSize), line = parseFloat(style.lineHeight);
    this.width = this.window.clientWidth;
    const emsALine = Math.max(4, this.width / em);
    for (let i = 0; i < this.heights.length; i++) {
      if (this.isMeasured[i]) continue;
      const block = this.blocks[this.from + i];
      const lines = Math.max(block.lines, Math.ceil(block.lines * 0.5 + block.ems / emsALine));
      this.heights[i] = lines * line + block.pages.length * 2.5 * em + (block.document >= 0 ? 5 * em : 0);
    }
    this.sum(0);
  }

  stepPart(by) {
    const part = this.part + by;
    if (part >= 0 && part < this.parts.length) this.openPart(part);
  }

  sum(first) {
    for (let i = first; i < this.heights.length; i++) this.tops[i + 1] = this.tops[i] + this.heights[i];
    this.space.style.height = `${this.tops[this.heights.length]}px`;
  }

  resize() {
    if (this.window.clientWidth === this.width) { this.draw(); return; }
    const anchor = this.topBlock(), inside = (this.root.scrollTop - this.tops[anchor]) / (this.heights[anchor] || 1);
    this.isMeasured.fill(0);
    this.guess();
    this.clear();
    this.root.scrollTop = this.tops[anchor] + inside * this.heights[anchor];
    this.draw();
  }

  clear() {
    this.drawn.clear();
    this.window.replaceChildren();
  }

  topBlock() {
    return Math.min(this.heights.length - 1, Math.max(0, lastAtMost(this.tops, this.root.scrollTop + 1)));
  }

  /** Draw what is on screen. Where a height was guessed wrong, what the reader looks at stays where it is. */
  draw() {
    for (let tries = 0; tries < 4; tries++) {
      const top = this.root.scrollTop, height = this.root.clientHeight;
      const first = Math.max(0, Math.min(this.heights.length - 1, lastAtMost(this.tops, Math.max(0, top - OVERSCAN))));
      const last = Math.min(this.heights.length - 1, Math.max(0, lastAtMost(this.tops, top + height + OVERSCAN)));
      this.put(first, last);
      if (!this.measure(first, last)) break;
    }
    this.onPlace(this.blocks[this.from + this.topBlock()], this.part, this.parts.length);
  }

  put(first, last) {
    for (const [i, element] of this.drawn) {
      if (i < first || i > last) { element.remove(); this.drawn.delete(i); }
    }
    let next = this.window.firstChild;
    for (let i = first; i <= last; i++) {
      const element = this.drawn.get(i);
      if (element) { next = element.nextSibling; continue; }
      const drawn = this.build(this.blocks[this.from + i]);
      this.drawn.set(i, drawn);
      this.window.insertBefore(drawn, next);
    }
    this.window.style.transform = `translateY(${this.tops[first]}px)`;
  }

  /** Take the heights of what is drawn; gives whether one was wrong. */
  measure(first, last) {
    const anchor = this.topBlock(), before = this.tops[anchor];
    let wrong = -1;
    for (let i = first; i <= last; i++) {
      const height = this.drawn.get(i).getBoundingClientRect().height;
      this.isMeasured[i] = 1;
      if (Math.abs(height - this.heights[i]) < 0.5) continue;
      this.heights[i] = height;
      if (wrong < 0) wrong = i;
    }
    if (wrong < 0) return false;
    this.sum(wrong);
    this.window.style.transform = `translateY(${this.tops[first]}px)`;
    if (this.tops[anchor] !== before) this.root.scrollTop += this.tops[anchor] - before;
    return true;
  }

  build(block) {
    const element = make("div", { className: "block" });
    if (block.document >= 0) element.append(make("h2", {}, make("bdi", { textContent: this.store.documents[block.document].name })));
    if (block.gap > 0) element.append(make("p", { className: "gap", textContent: `${count(block.gap)} characters left out` }));
    for (const page of block.pages) {
      const sign = make("p", { className: "page", textContent: page.number === null ? "" : `page ${page.number}` });
      if (page.problem) sign.append(make("span", { className: "problem", textContent: page.problem }));
      element.append(sign);
    }
    if (!block.passage) element.append(make("p", { className: "gap", textContent: "the text of this document can't be read any more" }));
    else if (block.end > block.start) element.append(this.buildText(block));
    if (block.isLast) element.append(make("p", { className: "gap", textContent: "the document goes on; the rest is left out" }));
    return element;
  }

  buildText(block) {
    const text = make("p", { className: block.isCut ? "text cut" : "text" });
    if (block.direction) text.dir = block.direction;
    const { isShown, hits } = this.state, spans = this.marks.within(block.at, block.until, isShown);
    const touched = hitsWithin(hits, block.at, block.until);
    if (!spans.length && !touched.length) {
      text.append(...textNodes(block.passage.text.slice(block.start, block.end)));
      return text;
    }
    for (const segment of this.marks.segments(block.at, block.until, spans, touched)) {
      const nodes = textNodes(block.passage.text.slice(segment.start - block.passage.base, segment.end - block.passage.base));
      if (segment.spans.length || segment.hit) text.append(this.buildMark(segment, nodes));
      else text.append(...nodes);
    }
    return text;
  }

  buildMark(segment, nodes) {
    const { current, currentHit } = this.state, mark = make("mark", { dataset: { at: segment.start } }, ...nodes);
    const isNow = segment.spans.some((s) => this.marks.record[s] === current);
    // The current record's fields come first, then the shortest span.
    const values = segment.spans.filter((s) => this.marks.field[s] < this.store.numFields).sort((a, b) =>
      (this.marks.record[b] === current) - (this.marks.record[a] === current) || this.marks.end[a] - this.marks.at[a] - (this.marks.end[b] - this.marks.at[b]));
    const fields = [...new Set(values.map((s) => this.marks.field[s]))];
    if (fields.length) mark.classList.add("field", `c${fields[0] % COLORS}`);
    if (fields.length > 1) mark.classList.add("both", `d${fields[1] % COLORS}`);
    if (segment.spans.length > values.length) mark.classList.add("quote");
    if (isNow) mark.classList.add("now");
    if (values.length && this.marks.record[values[0]] === current) mark.classList.add("value");
    if (segment.hit) mark.classList.add("hit");
    if (segment.hit && segment.hit.number === currentHit) mark.classList.add("here");
    if (segment.spans.length) mark.title = fields.length ? fields.map((f) => this.store.fields[f].name).join(", ") : "quote";
    return mark;
  }

  /** Draw anew what is on screen: the records, the current one or the hits have changed. */
  redraw() {
    for (const [i, element] of this.drawn) {
      const fresh = this.build(this.blocks[this.from + i]);
      element.replaceWith(fresh);
      this.drawn.set(i, fresh);
    }
    this.draw();
  }

  /** Bring a place of the flow on screen; `selector` finds what to look at there. What is well in sight is not moved. */
  goTo(at, selector = null) {
    const number = Math.max(0, lastAtMost(this.blocks, at, (block) => block.at));
    this.goToBlock(number, selector);
  }

  goToDocument(document, page = null) {
    const isPage = (block) => block.owner === document && block.pages.some((found) => found.number === page);
    let number = page === null ? -1 : this.blocks.findIndex(isPage);
    if (number < 0) number = this.blocks.findIndex((block) => block.document === document);
    if (number >= 0) this.goToBlock(number, null);
  }

  goToBlock(number, selector) {
    const part = this.parts.findIndex(([from, to]) => number >= from && number < to);
    if (part !== this.part) this.openPart(part);
    const block = number - this.from, height = this.root.clientHeight;
    if (!this.drawn.has(block)) {
      this.root.scrollTop = Math.max(0, this.tops[block] - height * 0.3);
      this.draw();
    }
    const element = this.drawn.get(block), target = (selector && element?.querySelector(selector)) || element;
    if (!target) return;
    const away = target.getBoundingClientRect().top - this.root.getBoundingClientRect().top;
    if (away > height * 0.12 && away < height * 0.7 && selector) return;
    this.root.scrollTop += selector ? away - height * 0.33 : away;
    this.draw();
  }
}

/** The hits that touch [start, end), with their numbers. */
function hitsWithin(hits, start, end) {
  const found = [];
  for (let i = Math.max(0, lastAtMost(hits.end, start)); i < hits.at.length && hits.at[i] < end; i++) {
    if (hits.end[i] > start) found.push({ at: hits.at[i], end: hits.end[i], number: i });
  }
  return found;
}
