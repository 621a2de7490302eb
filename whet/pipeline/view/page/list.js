// The list of records: rows of one height, of which only those on screen are drawn.

const ROW_REMS = 3.9;
const SIGNS = { true: ["✓", "accepted"], false: ["◔", "to review"], null: ["", ""] };

const percent = (share) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(share < 0.9995 && share > 0.99 ? 1 : 0)} %`);

class ListPane {
  constructor(root, store, state, onChoose) {
    Object.assign(this, { root, store, state });
    this.space = root.querySelector(".space");
    this.row = ROW_REMS * parseFloat(getComputedStyle(document.documentElement).fontSize);
    root.addEventListener("scroll", () => this.draw(), { passive: true });
    root.addEventListener("click", (event) => {
      const row = event.target.closest("[data-record]");
      if (row) onChoose(Number(row.dataset.record));
    });
    new ResizeObserver(() => this.draw()).observe(root);
  }

  draw() {
    const { order, current } = this.state;
    this.space.style.height = `${order.length * this.row}px`;
    const first = Math.max(0, Math.floor(this.root.scrollTop / this.row) - 4);
    const last = Math.min(order.length, Math.ceil((this.root.scrollTop + this.root.clientHeight) / this.row) + 4);
    const rows = [];
    for (let i = first; i < last; i++) rows.push(this.build(order[i], i, order.length, order[i] === current));
    this.space.replaceChildren(...rows);
    if (current >= 0) this.root.setAttribute("aria-activedescendant", `record-${current}`);
    else this.root.removeAttribute("aria-activedescendant");
  }

  build(record, position, total, isCurrent) {
    const { store } = this, texts = [];
    for (let f = 0; f < store.numFields; f++) {
      const text = store.textOf(store.fields[f], record);
      if (text !== null) texts.push(text);
    }
    const row = make("div", {
      id: `record-${record}`, className: isCurrent ? "row now" : "row", dataset: { record },
      attributes: { role: "option", "aria-selected": String(isCurrent), "aria-setsize": total, "aria-posinset": position + 1 },
    });
    row.style.transform = `translateY(${position * this.row}px)`;
    const [sign, meaning] = SIGNS[store.is_accepted[record]];
    const status = make("span", { className: `sign ${meaning.replace(" ", "-")}`, title: meaning, textContent: sign });
    const share = make("span", { className: "share", textContent: percent(store.confidence[record]) });
    row.append(make("span", { className: "head" }, make("bdi", { textContent: texts[0] ?? "–" }), status, share));
    const rest = make("span", { className: "rest" });
    texts.slice(1).forEach((text, i) => rest.append(i ? " · " : "", make("bdi", { textContent: text })));
    const signs = [...store.flagsOf(record)];
    if (store.isAmbiguous(record)) signs.push("ambiguous");
    if (store.isChanged(record)) signs.push("changed");
    if (store.place[record] < 0) signs.push("no place");
    for (const name of signs) rest.append(" ", make("i", { className: "flag", textContent: name }));
    row.append(rest);
    return row;
  }

  /** Bring the row of a place in the order on screen. */
  goTo(position) {
    if (position < 0) { this.draw(); return; }
    const top = position * this.row, { scrollTop, clientHeight } = this.root;
    if (top < scrollTop) this.root.scrollTop = Math.max(0, top - this.row);
    else if (top + this.row > scrollTop + clientHeight) this.root.scrollTop = top + 2 * this.row - clientHeight;
    this.draw();
  }
}
