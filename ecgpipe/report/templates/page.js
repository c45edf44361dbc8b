"use strict";
// The report: the map, the table and the viewer, all on one choice of a recording.

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const byId = (id) => document.getElementById(id);
const finger = matchMedia("(pointer: coarse)").matches; // dragging must scroll the page there

async function start() {
  const [facts, rows, points, views] = await Promise.all(["facts", "rows", "points", "views"].map((id) => unpack(byId(id))));
  const columns = columnsOf(rows, facts.thresholds);
  columns.shown = columns.find((column) => column.name === facts.colour && column.group === "predictions");
  const viewOf = new Map(views.map((view) => [view.row, view]));
  const choice = byId("recording");

  const recordingOf = (row) => {
    const chosen = viewOf.get(row), labels = columns.filter((column) => column.group === "predictions");
    const probabilities = labels.map(({ name, numbers, threshold }) => ({ name, probability: numbers[row], threshold }))
      .filter(({ probability }) => !Number.isNaN(probability)).sort((a, b) => b.probability - a.probability);
    const told = columns.filter((column) => column.group !== "predictions").map((column) => [column.name, text(column, row)])
      .filter(([, value]) => value !== "");
    let note = chosen?.note ?? null;
    if (!chosen?.view && !note) {
      note = "This page does not hold its leads."
        + (facts.paths ? ` To see them: ecgpipe show RUN ${quoted(rows.names[row])}` : "");
    }
    return { name: rows.names[row], why: chosen?.why ?? [], probabilities, facts: told, note, view: chosen?.view ?? null,
      neighbors: chosen?.neighbors ?? [] };
  };

  const viewer = new Viewer(byId("viewer"), (row) => open(row));
  let map;
  function open(row, scroll = false) {
    viewer.show(recordingOf(row));
    choice.value = viewOf.has(row) ? String(row) : "";
    for (const line of document.querySelectorAll("#table tr.open")) line.classList.remove("open");
    document.querySelector(`#table tr[data-row="${row}"]`)?.classList.add("open");
    map?.mark([row]);
    if (scroll) byId("recordings").scrollIntoView();
  }

  const table = new Table(byId("table"), rows, columns, (row) => open(row, true));
  choice.addEventListener("change", () => { if (choice.value) open(Number(choice.value)); });
  const go = (step) => {
    const order = [...choice.querySelectorAll("option")].map((option) => option.value).filter((value, i, all) =>
      value && all.indexOf(value) === i);
    const now = order.indexOf(choice.value);
    open(Number(order[(now + step + order.length) % order.length]));
  };
  byId("previous-recording").addEventListener("click", () => go(-1));
  byId("next-recording").addEventListener("click", () => go(1));
  // Where the paper or a button is in focus; elsewhere arrows move the cursor, a slider or the page.
  byId("recordings").addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input, select, textarea, table")) return;
    event.preventDefault();
    go(step);
  });
  for (const link of document.querySelectorAll("[data-filter]")) {
    link.addEventListener("click", () => {
      table.ask({ filters: JSON.parse(link.dataset.filter), group: link.dataset.group, sort: link.dataset.sort, down: true });
      if (link.dataset.open !== undefined && table.found.length) open(table.found[0], true);
    });
  }
  if (views.length) open((views.find((view) => view.row === facts.first) ?? views[0]).row);

  // The map last: Plotly takes longest, and nothing else waits for it.
  const script = made("script");
  script.textContent = await unpack(byId("plotly"));
  document.head.append(script);
  const colour = byId("colour");
  const groups = ["predictions", "quality", "metadata", "account"];
  colour.replaceChildren(...groups.map((group) => {
    const some = columns.map((column, i) => [column, i]).filter(([column]) => column.group === group);
    const options = some.map(([column, i]) => made("option", { value: i, textContent: column.name, selected: column === columns.shown }));
    return some.length ? made("optgroup", { label: group }, ...options) : "";
  }));
  map = new AtlasMap(byId("plot"), points, columns, rows.names, (row) => open(row, true), (selected) => {
    byId("selected").textContent = "";
    if (!selected) {
      if (table.only) table.ask({});
      return;
    }
    const only = new Set(selected.map((point) => points.row[point]));
    table.ask({ only, group: table.at("group").value });
    byId("selected").textContent = `${counted(selected.length, "segment")} of ${counted(only.size, "recording")} selected: `
      + `the table shows them.${contrast(columns, rows.names.length, only)}`;
  });
  if (byId("evaluation")) new Curves(byId("truth"), await unpack(byId("evaluation")));
  colour.addEventListener("change", () => map.colourBy(Number(colour.value)));
  for (const button of document.querySelectorAll("[data-colour]")) {
    button.addEventListener("click", () => {
      const number = columns.findIndex((column) => column.group === "predictions" && column.name === button.dataset.colour);
      colour.value = String(number);
      map.colourBy(number);
      byId("map").scrollIntoView();
    });
  }
  const search = byId("search");
  const matches = () => {
    const asked = search.value.trim().toLowerCase();
    return asked ? [...rows.names.keys()].filter((row) => rows.names[row].toLowerCase().includes(asked)) : [];
  };
  search.addEventListener("input", () => {
    const found = matches();
    map.mark(found);
    byId("found").textContent = search.value.trim() ? `${found.length.toLocaleString("en")} found` : "";
  });
  search.addEventListener("keydown", (event) => {
    const [first] = event.key === "Enter" ? matches() : [];
    if (first !== undefined) open(first, true);
  });
  document.documentElement.dataset.ready = "yes"; // for who waits for it
}

const counted = (n, what) => `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;
const quoted = (name) => /^[\w./-]+$/.test(name) && !name.startsWith("-") ? name : `-- '${name.replace(/'/g, "'\\''")}'`;

// By which labels some recordings differ most from all others.
function contrast(columns, n, only) {
  const differences = columns.filter((column) => column.group === "predictions").map(({ name, numbers }) => {
    let [inside, outside, in_, out] = [0, 0, 0, 0];
    for (let row = 0; row < n; row++) {
      if (Number.isNaN(numbers[row])) continue;
      if (only.has(row)) { inside += numbers[row]; in_++; } else { outside += numbers[row]; out++; }
    }
    return { name, difference: in_ && out ? inside / in_ - outside / out : 0, inside: inside / in_, outside: outside / out };
  }).filter(({ difference }) => Math.abs(difference) >= 0.01).sort((a, b) => Math.abs(b.difference) - Math.abs(a.difference));
  const said = differences.slice(0, 3).map(({ name, inside, outside }) => `${name} ${inside.toFixed(2)} (others ${outside.toFixed(2)})`);
  return said.length ? ` Mean probabilities that differ most: ${said.join(", ")}.` : "";
}

if (typeof DecompressionStream === "undefined") {
  byId("too-old").hidden = false;
} else {
  start().catch((error) => { byId("too-old").hidden = false; throw error; });
}
