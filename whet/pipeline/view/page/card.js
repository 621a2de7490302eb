// The card of the current record: every value with its place and confidence, and where the record came from.

const QUOTE = -1; // where fields have their number

class Card {
  constructor(root, store) {
    Object.assign(this, { root, store });
  }

  draw(record) {
    if (record < 0) {
      this.root.replaceChildren(make("p", { className: "soft", textContent: "No record is chosen." }));
      return;
    }
    const { store } = this, list = make("dl");
    for (let f = 0; f < store.numFields; f++) this.addValue(list, store.fields[f], f, record);
    if (store.quotes.shape[record] > 0) this.addValue(list, store.quotes, QUOTE, record);
    this.root.replaceChildren(list, this.buildFacts(record));
  }

  addValue(list, field, number, record) {
    const name = make("dt", {}, make("bdi", { textContent: field.name }));
    name.prepend(make("span", { className: number === QUOTE ? "swatch quote" : `swatch c${number % COLORS}`, attributes: { "aria-hidden": "true" } }));
    const said = make("dd"), value = this.store.value(field, record);
    if (!value) {
      said.append(make("span", { className: "soft", textContent: field.shape[record] === 0 ? "not said" : "–" }));
      list.append(name, said);
      return;
    }
    said.append(make("bdi", { className: "said", attributes: { lang: LANGUAGE } }, ...textNodes(value.text)));
    const facts = [];
    if (value.confidence !== null && value.confidence !== undefined) facts.push(percent(value.confidence));
    if (value.start !== null && value.start !== undefined) facts.push(`characters ${count(value.start)} to ${count(value.end)}`);
    if (value.page !== null && value.page !== undefined) facts.push(`page ${value.page}`);
    if (facts.length) said.append(make("small", { textContent: facts.join(" · ") }));
    if (field.ambiguous.has(record)) said.append(make("small", { className: "warn", textContent: "stands several times; this is the likeliest place" }));
    if (field.changed.has(record)) said.append(make("small", { className: "warn", textContent: "no longer stands there: the source has changed" }));
    list.append(name, said);
  }

  buildFacts(record) {
    const { store } = this, list = make("dl", { className: "facts" });
    const add = (name, value) => {
      if (value === null || value === undefined || value === "") return;
      list.append(make("dt", { textContent: name }), make("dd", {}, make("bdi", { textContent: String(value) })));
    };
    add("status", SIGNS[store.is_accepted[record]][1]);
    add("confidence", store.confidence[record] === null ? "" : percent(store.confidence[record]));
    add("flags", store.flagsOf(record).join(", "));
    add("document", store.documents[store.document[record]].name);
    add("page", store.page[record]);
    add("run", store.names[store.run[record]]);
    add("adapter", store.names[store.adapter[record]]);
    add("chunk", store.names[store.chunk[record]]);
    add("record", store.id[record]);
    return list;
  }
}

