// The controls of the filters: read, cleared, and filled with what the records have.

const MOST_NAMES = 50;

class Filters {
  constructor(root, store, onChange) {
    Object.assign(this, { root, store, onChange });
    this.flags = [];
    const field = this.control("field");
    store.fields.forEach((found, i) => field.append(make("option", { value: String(i), textContent: found.name })));
    this.waiting = 0;
    root.addEventListener("input", (event) => {
      if (event.target.name === "document") this.suggest(event.target.value);
      clearTimeout(this.waiting);
      this.waiting = setTimeout(onChange, 120);
    });
    root.addEventListener("submit", (event) => { event.preventDefault(); onChange(); });
    root.addEventListener("reset", () => setTimeout(() => { for (const flag of this.flags) flag.input.checked = false; onChange(); }));
    this.control("document").addEventListener("focus", (event) => this.suggest(event.target.value));
  }

  control(name) {
    return this.root.elements.namedItem(name);
  }

  /** A box for each flag that a record has, and for what the page knows of records by itself. Counted when first looked at. */
  addFlags() {
    if (this.flags.length) return;
    const { store } = this, counts = new Map(), own = new Map();
    for (let r = 0; r < store.numRecords; r++) {
      for (const flag of new Set(store.flagsOf(r))) counts.set(flag, (counts.get(flag) ?? 0) + 1);
      for (const name of Object.keys(OWN_FLAGS)) if (OWN_FLAGS[name](store, r)) own.set(name, (own.get(name) ?? 0) + 1);
    }
    const box = this.root.querySelector(".flags");
    const add = (name, isOwn, label, num) => {
      const input = make("input", { type: "checkbox", name: "flag" });
      this.flags.push({ input, name, isOwn });
      box.append(make("label", {}, input, " ", make("bdi", { textContent: label }), make("small", { textContent: ` ${count(num)}` })));
    };
    for (const [name, num] of [...counts].sort((a, b) => b[1] - a[1])) add(name, false, name, num);
    for (const [name, num] of own) if (name) add(name, true, { ambiguous: "ambiguous place", "no place": "no place in the text", changed: "source changed" }[name], num);
    if (counts.size && own.has("")) add("", true, "without flags", own.get(""));
    this.root.querySelector(".flag-set").hidden = this.flags.length === 0;
  }

  /** Names of documents that fit what was typed; a page may have thousands. */
  suggest(words) {
    const isIn = wordsIn(words), names = [];
    for (const document of this.store.documents) {
      if (names.length === MOST_NAMES) break;
      if (!isIn || isIn(document.name)) names.push(make("option", { value: document.name }));
    }
    this.root.querySelector("datalist").replaceChildren(...names);
  }

  read() {
    const share = (name, otherwise) => {
      const typed = this.control(name).valueAsNumber;
      return Number.isNaN(typed) ? otherwise : typed / 100;
    };
    return {
      field: Number(this.control("field").value),
      words: this.control("words").value,
      match: this.control("match").value,
      low: share("low", 0),
      high: share("high", 1),
      status: this.control("status").value,
      flags: this.flags.filter((flag) => flag.input.checked).map(({ name, isOwn }) => ({ name, isOwn })),
      document: this.control("document").value,
    };
  }

  setStatus(status) {
    this.control("status").value = status;
    this.onChange();
  }
}
