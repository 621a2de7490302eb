// Which records pass the filters, and where words stand in the text.

const MOST_HITS = 100000;
const escaped = (words) => words.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&");

/** A test for words in a text, whatever their case; null for no words. */
function wordsIn(words, isWhole = false) {
  if (!words) return null;
  try {
    const pattern = new RegExp(isWhole ? `^(?:${escaped(words)})$` : escaped(words), "iu");
    return (text) => pattern.test(text);
  } catch {
    return (text) => (isWhole ? text === words : text.includes(words)); // half a character
  }
}

/** The filters as they stand when nothing is chosen. `field`: -1 is any. */
const noFilters = () => ({ field: -1, words: "", match: "contains", low: 0, high: 1, status: "all", flags: [], document: "" });

/** 1 for each record that passes. */
function passing(store, filters) {
  const isShown = new Uint8Array(store.numRecords);
  const fields = filters.field >= 0 ? [store.fields[filters.field]] : store.fields.slice(0, store.numFields);
  const isIn = wordsIn(filters.words, filters.match === "is");
  const inDocument = wordsIn(filters.document);
  const documents = store.documents.map((document) => !inDocument || inDocument(document.name));
  const isAnyShare = filters.low <= 0 && filters.high >= 1;
  const flagged = store.flagLists.map((list) => new Set(list));
  const wanted = { accepted: true, review: false, undecided: null }[filters.status];
  for (let r = 0; r < store.numRecords; r++) {
    if (!documents[store.document[r]]) continue;
    if (filters.status !== "all" && store.is_accepted[r] !== wanted) continue;
    if (filters.flags.length && !filters.flags.some((flag) => hasFlag(store, r, flag, flagged))) continue;
    if (!isAnyShare) {
      const share = filters.field >= 0 ? fields[0].confidence[r] : store.confidence[r];
      if (share === null || share < filters.low || share > filters.high) continue;
    }
    if (!fitsValue(store, fields, r, filters.match, isIn)) continue;
    isShown[r] = 1;
  }
  return isShown;
}

function fitsValue(store, fields, record, match, isIn) {
  if (match === "empty") return fields.some((field) => field.shape[record] <= 0);
  if (match === "said") return fields.some((field) => field.shape[record] > 0);
  return !isIn || fields.some((field) => field.shape[record] > 0 && isIn(store.textOf(field, record)));
}

/** Flags of rows, and what the page itself knows of a record. */
const OWN_FLAGS = {
  "": (store, r) => store.flagsOf(r).length === 0,
  ambiguous: (store, r) => store.isAmbiguous(r),
  "no place": (store, r) => store.place[r] < 0,
  changed: (store, r) => store.isChanged(r),
};

function hasFlag(store, record, flag, flagged) {
  return flag.isOwn ? OWN_FLAGS[flag.name](store, record) : flagged[store.flags[record]].has(flag.name);
}

/** Places of words in the shown documents' text, in the order of the flow. */
function search(store, words, isShownDocument) {
  const hits = { at: [], end: [], isMore: false };
  if (!words) return hits;
  let pattern;
  try {
    pattern = new RegExp(escaped(words), "giu");
  } catch {
    return hits; // half a character: nothing that stands in a text
  }
  for (const passage of store.passages) {
    if (!isShownDocument(passage.document)) continue;
    for (const found of passage.text.matchAll(pattern)) {
      if (hits.at.length === MOST_HITS) { hits.isMore = true; return hits; }
      hits.at.push(passage.base + found.index);
      hits.end.push(passage.base + found.index + found[0].length);
    }
  }
  return hits;
}
