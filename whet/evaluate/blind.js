"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const ballot = data.ballot;
  const place = `whet-votes-${ballot.ballot}-${ballot.num_pairs}`;
  const keys = new Set(data.pairs.map((pair) => pair.key));
  const of = (id) => document.getElementById(id);
  const KINDS = ["left", "right", "tie"];
  let votes = {}; // by key, in the order in which they were given
  let trouble = "";

  const fit = (found) => Object.fromEntries(Object.entries(found ?? {}).filter(([key, vote]) => keys.has(key) && KINDS.includes(vote)));
  const load = () => {
    try {
      votes = fit(JSON.parse(localStorage.getItem(place) ?? "{}"));
    } catch {
      trouble = "This browser keeps nothing for this page: save the votes before you close it.";
    }
  };
  const keep = () => {
    try {
      localStorage.setItem(place, JSON.stringify(votes));
    } catch {
      trouble = "This browser keeps nothing for this page: save the votes before you close it.";
    }
  };
  const now = () => data.pairs.find((pair) => !(pair.key in votes));

  const draw = () => {
    const pair = now();
    const num = Object.keys(votes).length;
    of("done").textContent = `${num} of ${data.pairs.length} read`;
    of("bar").max = data.pairs.length;
    of("bar").value = num;
    of("pair").hidden = !pair;
    of("end").hidden = Boolean(pair);
    for (const kind of KINDS) of(kind).disabled = !pair;
    of("undo").disabled = num === 0;
    of("trouble").textContent = trouble;
    of("trouble").hidden = !trouble;
    if (!pair) return;
    of("text").textContent = pair.text;
    of("left-answer").textContent = pair.left.trim() || "(an empty answer)";
    of("right-answer").textContent = pair.right.trim() || "(an empty answer)";
    of("text").scrollTop = 0;
  };
  const vote = (kind) => {
    const pair = now();
    if (!pair) return;
    votes[pair.key] = kind;
    keep();
    draw();
    window.scrollTo(0, 0);
  };
  const undo = () => {
    const last = Object.keys(votes).at(-1);
    if (last === undefined) return;
    delete votes[last];
    keep();
    draw();
  };
  const saved = () => JSON.stringify({ ...ballot, votes }, null, 1) + "\n";
  const save = () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([saved()], { type: "application/json" }));
    link.download = `votes-${ballot.ballot.slice(0, 8)}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  const read = async (file) => {
    trouble = "";
    try {
      const found = JSON.parse(await file.text());
      if (found.format !== ballot.format || found.ballot !== ballot.ballot || found.num_pairs !== ballot.num_pairs) trouble = "That file holds no votes on this ballot.";
      else votes = { ...votes, ...fit(found.votes) };
    } catch {
      trouble = "That file holds no votes on this ballot.";
    }
    keep();
    draw();
  };

  for (const kind of KINDS) of(kind).addEventListener("click", () => vote(kind));
  of("undo").addEventListener("click", undo);
  of("save").addEventListener("click", save);
  of("load").addEventListener("change", (event) => {
    if (event.target.files[0]) read(event.target.files[0]);
    event.target.value = "";
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const does = { 1: () => vote("left"), 2: () => vote("right"), 0: () => vote("tie"), u: undo }[event.key];
    if (does) {
      event.preventDefault();
      does();
    }
  });
  load();
  draw();
})();
