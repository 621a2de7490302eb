// What is highlighted where: the spans of all records, found by their place in the flow.

const BUCKET = 8; // 256 units
const LONGEST = 64; // buckets; a longer span is kept aside, so that it fills no index

class Marks {
  constructor(store) {
    let total = 0;
    for (const field of store.fields) for (const at of field.at) if (at >= 0) total++;
    this.at = new Int32Array(total);
    this.end = new Int32Array(total);
    this.record = new Int32Array(total);
    this.field = new Uint16Array(total);
    this.long = [];
    this.first = new Int32Array((store.length >> BUCKET) + 2);
    let n = 0;
    store.fields.forEach((field, f) => {
      for (let r = 0; r < store.numRecords; r++) {
        if (field.at[r] < 0 || field.length[r] <= 0) continue;
        this.at[n] = field.at[r];
        this.end[n] = field.at[r] + field.length[r];
        this.record[n] = r;
        this.field[n++] = f;
      }
    });
    this.fill(n);
  }

  /** Numbers of spans by bucket, each span in every bucket that it touches. */
  fill(total) {
    for (let s = 0; s < total; s++) {
      const low = this.at[s] >> BUCKET, high = (this.end[s] - 1) >> BUCKET;
      if (high - low > LONGEST) this.long.push(s);
      else for (let b = low; b <= high; b++) this.first[b + 1]++;
    }
    for (let b = 1; b < this.first.length; b++) this.first[b] += this.first[b - 1];
    this.spans = new Int32Array(this.first[this.first.length - 1]);
    const next = this.first.slice();
    for (let s = 0; s < total; s++) {
      const low = this.at[s] >> BUCKET, high = (this.end[s] - 1) >> BUCKET;
      if (high - low <= LONGEST) for (let b = low; b <= high; b++) this.spans[next[b]++] = s;
    }
  }

  /** The spans of shown records that touch [start, end) of the flow. */
  within(start, end, isShown) {
    const found = [], from = start >> BUCKET, to = (end - 1) >> BUCKET;
    const touches = (s) => isShown[this.record[s]] && this.at[s] < end && this.end[s] > start;
    for (let b = from; b <= to; b++) {
      for (let i = this.first[b]; i < this.first[b + 1]; i++) {
        const s = this.spans[i];
        if ((b === from || this.at[s] >> BUCKET === b) && touches(s)) found.push(s);
      }
    }
    for (const s of this.long) if (touches(s)) found.push(s);
    return found;
  }

  /** [start, end) cut where a span or a hit begins or ends: pieces with the spans and the number of the hit that cover them. */
  segments(start, end, spans, hits) {
    const cuts = new Set([start, end]);
    const add = (from, to) => { cuts.add(Math.max(from, start)); cuts.add(Math.min(to, end)); };
    for (const s of spans) add(this.at[s], this.end[s]);
    for (const hit of hits) add(hit.at, hit.end);
    const sorted = [...cuts].sort((a, b) => a - b);
    return sorted.slice(0, -1).map((from, i) => ({
      start: from,
      end: sorted[i + 1],
      spans: spans.filter((s) => this.at[s] <= from && this.end[s] > from),
      hit: hits.find((hit) => hit.at <= from && hit.end > from) ?? null,
    }));
  }

  /** The records at a place, those with the shortest span first. */
  recordsAt(at, isShown) {
    const spans = this.within(at, at + 1, isShown).sort((a, b) => this.end[a] - this.at[a] - (this.end[b] - this.at[b]));
    return [...new Set(spans.map((s) => this.record[s]))];
  }
}
