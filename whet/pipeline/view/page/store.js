// The page's data: columns out of the JSON block. Values and rows are built when they are asked for.

/** A column of numbers, -1 and the like included. */
function numbers(column, length) {
  return Array.isArray(column) ? Int32Array.from(column) : new Int32Array(length).fill(column.all);
}

/** A column of any JSON values. */
function cells(column, length) {
  return Array.isArray(column) ? column : new Array(length).fill(column.all);
}

/** The last index whose element is at most `value`; -1 if there is none. */
function lastAtMost(sorted, value, get = (element) => element) {
  let low = 0, high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (get(sorted[middle]) <= value) low = middle + 1; else high = middle;
  }
  return low - 1;
}

const isHigh = (unit) => unit >= 0xd800 && unit < 0xdc00;
const isLow = (unit) => unit >= 0xdc00 && unit < 0xe000;

/** A run of a document's text. Its `base` is its place in the flow: all passages one after the other, in UTF-16 units. */
class Passage {
  constructor(raw, base) {
    this.document = raw.document;
    this.start = raw.start;
    this.text = raw.text;
    this.pages = raw.pages.map(([at, number, problem]) => ({ at, number, problem }));
    this.base = base;
    this.end = base + raw.text.length;
    this.pairs = null;
  }

  /** Code points of the document before a place in the flow. */
  codePoint(at) {
    if (!this.pairs) this.countPairs();
    const offset = at - this.base;
    let pairs = this.pairs[offset >> 10];
    for (let i = (offset >> 10) << 10; i < offset; i++) pairs += this.endsPair(i);
    return this.start + offset - pairs;
  }

  /** Every 1,024 units: how many surrogate pairs end before. */
  countPairs() {
    this.pairs = new Int32Array((this.text.length >> 10) + 1);
    let pairs = 0;
    for (let i = 0; i < this.text.length; i++) {
      if ((i & 1023) === 0) this.pairs[i >> 10] = pairs;
      pairs += this.endsPair(i);
    }
    if ((this.text.length & 1023) === 0) this.pairs[this.text.length >> 10] = pairs;
  }

  endsPair(i) {
    return i > 0 && isLow(this.text.charCodeAt(i)) && isHigh(this.text.charCodeAt(i - 1)) ? 1 : 0;
  }
}

/** One field of all records, or their quotes. */
class Field {
  constructor(raw, name, length) {
    this.name = name;
    this.shape = numbers(raw.shape, length);
    this.at = numbers(raw.at, length);
    this.length = numbers(raw.length, length);
    this.text = numbers(raw.text, length);
    this.page = cells(raw.page, length);
    this.confidence = cells(raw.confidence, length);
    this.ambiguous = new Set(raw.ambiguous);
    this.changed = new Set(raw.changed);
    this.more = raw.more;
  }
}

class Store {
  constructor(data) {
    const length = data.num_records;
    this.name = data.name;
    this.passages = [];
    let base = 0;
    for (const raw of data.passages) {
      this.passages.push(new Passage(raw, base));
      base += raw.text.length;
    }
    this.length = base;
    this.documents = data.documents.map((raw) => ({ name: raw.name, goesOn: raw.goes_on, passages: [], records: [0, 0] }));
    for (const passage of this.passages) this.documents[passage.document].passages.push(passage);
    this.shapes = data.shapes;
    this.texts = data.texts;
    this.names = data.names;
    this.flagLists = data.flag_lists;
    this.numRecords = length;
    this.fields = data.values.map((raw, i) => new Field(raw, data.fields[i] ?? "quote", length));
    this.numFields = data.fields.length;
    this.quotes = this.fields[this.numFields];
    const rows = data.records;
    for (const name of ["document", "shape", "flags", "chunk", "run", "adapter"]) this[name] = numbers(rows[name], length);
    for (const name of ["id", "page", "confidence", "is_accepted"]) this[name] = cells(rows[name], length);
    this.more = rows.more;
    for (let i = 0; i < length; i++) {
      const range = this.documents[this.document[i]].records;
      if (range[1] === 0) range[0] = i;
      range[1] = i + 1;
    }
    this.place = new Int32Array(length);
    for (let i = 0; i < length; i++) this.place[i] = this.firstPlace(i);
  }

  /** Where a record's first value stands in the flow, or else its quote; -1 if nowhere. */
  firstPlace(record) {
    let first = -1;
    for (let f = 0; f < this.numFields; f++) {
      const at = this.fields[f].at[record];
      if (at >= 0 && (first < 0 || at < first)) first = at;
    }
    return first >= 0 ? first : this.quotes.at[record];
  }

  passageAt(at) {
    return this.passages[lastAtMost(this.passages, at, (passage) => passage.base)];
  }

  slice(at, end) {
    const passage = this.passageAt(at);
    return passage.text.slice(at - passage.base, end - passage.base);
  }

  /** The text of a value; null where the record has none. */
  textOf(field, record) {
    if (field.shape[record] <= 0) return null;
    const own = field.text[record];
    return own >= 0 ? this.texts[own] : this.slice(field.at[record], field.at[record] + field.length[record]);
  }

  /** A value as its row has it; null where it is null. */
  value(field, record) {
    if (field.shape[record] <= 0) return null;
    const more = field.more[record] ?? {}, at = field.at[record];
    const passage = at >= 0 ? this.passageAt(at) : null;
    const known = {
      text: () => this.textOf(field, record),
      start: () => (passage ? passage.codePoint(at) : more.start ?? null),
      end: () => (passage ? passage.codePoint(at + field.length[record]) : more.end ?? null),
      page: () => field.page[record],
      confidence: () => field.confidence[record],
      ambiguous: () => field.ambiguous.has(record),
    };
    const value = Object.create(null); // a key may be called __proto__
    for (const key of this.shapes[field.shape[record] - 1]) value[key] = Object.hasOwn(known, key) ? known[key]() : more[key];
    return value;
  }

  /** A record as its row has it. */
  row(record) {
    const more = this.more[record] ?? {};
    const known = {
      id: () => this.id[record],
      document: () => this.documents[this.document[record]].name,
      page: () => this.page[record],
      chunk: () => this.names[this.chunk[record]],
      values: () => this.valuesOf(record),
      quote: () => this.value(this.quotes, record),
      confidence: () => this.confidence[record],
      is_accepted: () => this.is_accepted[record],
      flags: () => this.flagsOf(record),
      run: () => this.names[this.run[record]],
      adapter: () => this.names[this.adapter[record]],
    };
    const row = Object.create(null);
    for (const key of this.shapes[this.shape[record]]) row[key] = Object.hasOwn(known, key) ? known[key]() : more[key];
    return row;
  }

  valuesOf(record) {
    const values = Object.create(null);
    for (let f = 0; f < this.numFields; f++) {
      const field = this.fields[f];
      if (field.shape[record] >= 0) values[field.name] = this.value(field, record);
    }
    return values;
  }

  flagsOf(record) {
    return this.flagLists[this.flags[record]];
  }

  isAmbiguous(record) {
    return this.fields.some((field) => field.ambiguous.has(record));
  }

  isChanged(record) {
    return this.fields.some((field) => field.changed.has(record));
  }
}
