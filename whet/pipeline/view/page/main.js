// The page: what is shown and chosen, the keys, the link to a record.

const find = (selector) => document.querySelector(selector);

addEventListener("error", (event) => {
  find("#trouble").textContent = `This page could not be drawn: ${event.message}`;
  find("#trouble").hidden = false;
});

const store = new Store(JSON.parse(find("#data").textContent));
const marks = new Marks(store);
const LANGUAGE = find("#text").lang;
const state = {
  isShown: new Uint8Array(store.numRecords).fill(1),
  order: Int32Array.from({ length: store.numRecords }, (_, i) => i),
  filters: noFilters(),
  current: -1,
  hits: { at: [], end: [], isMore: false },
  currentHit: -1,
};
let isShownDocument = () => true;

const card = new Card(find("#card"), store);
const text = new TextPane(find("#text"), store, marks, state, sayPlace);
const list = new ListPane(find("#list"), store, state, (record) => { select(record); closeDrawer(); });
const filters = new Filters(find("#filters"), store, applyFilters);

function say(words) {
  find("#said").textContent = words;
}

let fading = 0;
function toast(words) {
  find("#toast").textContent = words;
  find("#toast").hidden = false;
  clearTimeout(fading);
  fading = setTimeout(() => { find("#toast").hidden = true; }, 2500);
}

/** The document and page at the top of the text, and the part of a text that no browser could scroll through whole. */
function sayPlace(block, part, numParts) {
  const name = block ? store.documents[block.owner].name : "";
  const pages = (block?.passage?.pages ?? []).filter((found) => found.number !== null), page = pages[lastAtMost(pages, block?.start ?? 0, (found) => found.at)];
  const words = page ? `${name} · page ${page.number}` : name;
  if (find("#place").textContent !== words) find("#place").textContent = words;
  find("#part").hidden = numParts < 2;
  find("#part span").textContent = `part ${part + 1} of ${numParts}`;
}

function sayNumbers() {
  const { order, current } = state, shown = order.length, position = positionOf(current);
  const of = shown === store.numRecords ? count(shown) : `${count(shown)} (${count(store.numRecords)} in all)`;
  find("#numbers").textContent = position >= 0 ? `record ${count(position + 1)} of ${of}` : `${of} records`;
  find("#empty").hidden = shown > 0;
}

function applyFilters() {
  const before = state.filters.document;
  state.filters = filters.read();
  state.isShown = passing(store, state.filters);
  state.order = Int32Array.from({ length: state.isShown.reduce((sum, is) => sum + is, 0) });
  for (let r = 0, n = 0; r < store.numRecords; r++) if (state.isShown[r]) state.order[n++] = r;
  if (state.filters.document !== before) {
    const isIn = wordsIn(state.filters.document);
    isShownDocument = (number) => !isIn || isIn(store.documents[number].name);
    text.showDocuments(isShownDocument);
    searchText();
  } else text.redraw();
  list.goTo(positionOf(state.current));
  find("#filters-on").hidden = JSON.stringify(state.filters) === JSON.stringify(noFilters());
  sayNumbers();
}

/** Where a record stands among those that are shown; -1 if it does not. */
function positionOf(record) {
  const at = lastAtMost(state.order, record);
  return at >= 0 && state.order[at] === record ? at : -1;
}

function select(record) {
  state.current = record;
  card.draw(record);
  text.redraw();
  if (store.place[record] >= 0) text.goTo(store.place[record], "mark.now");
  else text.goToDocument(store.document[record], store.page[record]);
  list.goTo(positionOf(record));
  find("#buttons").hidden = false;
  sayNumbers();
  const first = store.fields.find((field) => field.shape[record] > 0);
  find("#summary").textContent = first ? store.textOf(first, record) : "–";
  say(`${first ? store.textOf(first, record) : "record"}, ${find("#numbers").textContent}`);
  linkTo(record);
}

let linking = 0;
function linkTo(record) {
  clearTimeout(linking);
  linking = setTimeout(() => { // browsers refuse many in a row
    try { history.replaceState(null, "", `#record=${encodeURIComponent(store.id[record])}`); } catch { /* the link can still be copied */ }
  }, 200);
}

/** The record that the address names, once it is loaded or changed. */
function openLink() {
  const name = location.hash.match(/^#record=(.+)$/)?.[1];
  if (!name) return;
  let id = name;
  try { id = decodeURIComponent(name); } catch { /* as it is */ }
  const record = store.id.indexOf(id);
  if (record < 0) { toast(`There is no record ${id} on this page`); return; }
  if (!state.isShown[record]) clearFilters();
  if (record !== state.current) select(record);
}

function clearFilters() {
  find("#filters").reset();
  for (const flag of filters.flags) flag.input.checked = false;
  applyFilters();
}

function step(by) {
  const { order, current } = state;
  if (!order.length) return;
  let at;
  if (current < 0) {
    const top = text.blocks[text.from + text.topBlock()]?.at ?? 0;
    at = order.findIndex((record) => store.place[record] >= top);
    if (at < 0) at = by > 0 ? 0 : order.length - 1;
  } else {
    at = lastAtMost(order, current);
    at = by > 0 ? at + 1 : positionOf(current) >= 0 ? at - 1 : at;
  }
  if (at < 0 || at >= order.length) toast(by > 0 ? "This is the last record" : "This is the first record");
  else select(order[at]);
}

function stepDocument(by) {
  const { order, current } = state, documentOf = (record) => store.document[record];
  const now = current >= 0 ? store.document[current] : text.blocks[text.from + text.topBlock()]?.owner ?? 0;
  let at = lastAtMost(order, now, documentOf) + 1;
  if (by < 0) {
    at = lastAtMost(order, now - 1, documentOf);
    if (at >= 0) at = lastAtMost(order, documentOf(order[at]) - 1, documentOf) + 1;
  }
  if (at < 0 || at >= order.length) toast(by > 0 ? "No record in a later document" : "No record in an earlier document");
  else select(order[at]);
}

function searchText() {
  state.hits = search(store, find("#words").value, isShownDocument);
  state.currentHit = -1;
  text.redraw();
  sayHits();
}

function sayHits() {
  const { hits, currentHit } = state, total = `${count(hits.at.length)}${hits.isMore ? "+" : ""}`;
  find("#hits").textContent = !find("#words").value ? "" : currentHit >= 0 ? `${count(currentHit + 1)} of ${total}` : `${total} found`;
}

function stepHit(by) {
  const { hits, currentHit } = state;
  if (!hits.at.length) return;
  if (currentHit < 0) {
    const top = text.blocks[text.from + text.topBlock()]?.at ?? 0, at = lastAtMost(hits.at, top - 1);
    state.currentHit = by > 0 ? (at + 1) % hits.at.length : Math.max(0, at);
  } else state.currentHit = (currentHit + by + hits.at.length) % hits.at.length;
  text.redraw();
  text.goTo(hits.at[state.currentHit], "mark.here");
  sayHits();
}

async function copy(words, what) {
  try {
    await navigator.clipboard.writeText(words);
    toast(`${what} copied`);
  } catch { // no clipboard for this page: show it, chosen, to be copied by hand
    find("#by-hand textarea").value = words;
    find("#by-hand").showModal();
    find("#by-hand textarea").select();
  }
}

function copyRecord() {
  if (state.current >= 0) copy(JSON.stringify(store.row(state.current)), "Record");
}

function copyLink() {
  if (state.current >= 0) copy(`${location.href.split("#")[0]}#record=${encodeURIComponent(store.id[state.current])}`, "Link");
}

function toggleFilters(is = find("#filters").hidden) {
  find("#filters").hidden = !is;
  find("#filter").setAttribute("aria-expanded", String(is));
  if (is) { filters.addFlags(); openDrawer(); filters.control("field").focus(); }
  list.draw();
}

function openDrawer() {
  document.body.classList.add("drawer");
  list.draw();
}

function closeDrawer() {
  document.body.classList.remove("drawer");
}

function toggleHelp() {
  if (find("#help").open) find("#help").close(); else find("#help").showModal();
}

/** On a narrow screen: the whole card, or its one line. The record stays in sight. */
function toggleCard() {
  document.body.classList.toggle("raised");
  if (store.place[state.current] >= 0) text.goTo(store.place[state.current], "mark.now");
}

function cycleStatus() {
  const all = ["all", "accepted", "review", "undecided"], status = all[(all.indexOf(state.filters.status) + 1) % all.length];
  filters.setStatus(status);
  toast({ all: "All records", accepted: "Accepted records", review: "Records to review", undecided: "Records that are undecided" }[status]);
}

function escape() {
  if (document.body.classList.contains("drawer") || !find("#filters").hidden) { toggleFilters(false); closeDrawer(); return; }
  if (find("#words").value) { find("#words").value = ""; searchText(); }
}

const KEYS = {
  j: () => step(1), k: () => step(-1), J: () => stepDocument(1), K: () => stepDocument(-1),
  g: () => { if (state.order.length) select(state.order[0]); }, G: () => { if (state.order.length) select(state.order[state.order.length - 1]); },
  ".": () => { if (state.current >= 0) select(state.current); },
  "/": () => find("#words").focus(), n: () => stepHit(1), N: () => stepHit(-1),
  f: () => toggleFilters(), a: cycleStatus, x: clearFilters, c: copyRecord, y: copyLink, "?": toggleHelp, Escape: escape,
};

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const field = event.target.closest?.("input, select, textarea");
  if (event.key === "Escape" && field && !find("dialog[open]")) { field.blur(); escape(); find("#text").focus(); return; }
  const isTyped = field && !(field.type === "checkbox" || field.type === "radio");
  if (isTyped || (find("dialog[open]") && event.key !== "?") || !Object.hasOwn(KEYS, event.key)) return;
  event.preventDefault();
  KEYS[event.key]();
});

find("#list").addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown" || event.key === "ArrowUp") { event.preventDefault(); step(event.key === "ArrowDown" ? 1 : -1); }
});
find("#text").addEventListener("click", (event) => {
  const mark = event.target.closest("mark");
  if (!mark || !getSelection().isCollapsed) return;
  const found = marks.recordsAt(Number(mark.dataset.at), state.isShown);
  if (found.length) select(found[(found.indexOf(state.current) + 1) % found.length]); // a second click chooses the next one beneath
});
let searching = 0;
find("#words").addEventListener("input", () => { clearTimeout(searching); searching = setTimeout(searchText, 150); });
find("#words").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.isComposing) return;
  event.preventDefault();
  if (searching) { clearTimeout(searching); searching = 0; if (state.currentHit < 0) searchText(); }
  stepHit(event.shiftKey ? -1 : 1);
});
const PRESSED = {
  "#next": () => step(1), "#previous": () => step(-1), "#next-document": () => stepDocument(1), "#previous-document": () => stepDocument(-1),
  "#part-back": () => text.stepPart(-1), "#part-on": () => text.stepPart(1),
  "#filter": () => toggleFilters(), "#open-list": () => { if (document.body.classList.contains("drawer")) closeDrawer(); else openDrawer(); },
  "#ask-help": toggleHelp, "#copy": copyRecord, "#copy-link": copyLink, "#summary": toggleCard,
};
for (const [button, act] of Object.entries(PRESSED)) find(button).addEventListener("click", act);
addEventListener("hashchange", openLink);

card.draw(-1);
list.draw();
sayNumbers();
openLink();
performance.mark("whet-drawn");
