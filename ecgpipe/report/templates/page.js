"use strict";
// The report: the map, the table and the viewer, all on one choice of a recording.

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const byId = (id) => document.getElementById(id);
const AMPLITUDE = "amplitude_mv_", TRUE = "true: "; // how columns begin that belong together
const finger = matchMedia("(pointer: coarse)").matches; // dragging must scroll the page there

async function start() {
  const [facts, rows, points, views] = await Promise.all(["facts", "rows", "points", "views"].map((id) => unpack(byId(id))));
  const columns = columnsOf(rows, facts.thresholds);
  columns.shown = columns.find((column) => column.name === facts.colour && column.group === "predictions");
  const viewOf = new Map(views.map((view) => [view.row, view]));
  const choice = byId("recording");
  const truth = new Map(columns.filter(({ group, name }) => group === "truth" && name.startsWith(TRUE))
    .map((column) => [column.name.slice(TRUE.length), column]));

  const recordingOf = (row) => {
    const chosen = viewOf.get(row), labels = columns.filter((column) => column.group === "predictions");
    const truthOf = (name) => truth.has(name) ? text(truth.get(name), row) : "";
    const probabilities = labels.map(({ name, numbers, threshold }) => ({ name, probability: numbers[row], threshold, truth: truthOf(name) }))
      .filter(({ probability }) => !Number.isNaN(probability)).sort((a, b) => b.probability - a.probability);
    const told = columns.filter(({ group, name }) => !["predictions", "truth"].includes(group) && !name.startsWith(AMPLITUDE))
      .map((column) => [titleOf(column), text(column, row), column.name]).filter(([, value]) => value !== "");
    const amplitudes = columns.filter(({ name, group }) => group === "quality" && name.startsWith(AMPLITUDE)).map((column) =>
      [column.name.slice(AMPLITUDE.length), text(column, row)]).filter(([, value]) => value !== "");
    if (amplitudes.length) told.push(["amplitude (mV)", amplitudes.map((pair) => pair.join(" ")).join(", ")]);
    let note = chosen?.note ?? null;
    if (!chosen?.view && !note) {
      note = "This page does not hold its leads."
        + (facts.paths ? ` To see them: ecgpipe show RUN ${quoted(rows.names[row])}` : "");
    }
    return { name: rows.names[row], why: chosen?.why ?? [], probabilities, facts: told, note, view: chosen?.view ?? null,
      neighbors: chosen?.neighbors ?? [], statements: chosen?.statements ?? [] };
  };

  const viewer = new Viewer(byId("viewer"), (row) => open(row), facts.attributable);
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
      const { filter, group, sort, up, near } = link.dataset;
      table.ask({ filters: JSON.parse(filter), group, sort, down: up === undefined && near === undefined,
        near: near === undefined ? undefined : Number(near) });
      if (link.dataset.open !== undefined && table.found.length) open(table.found[0], true);
    });
  }
  const order = byId("label-order");
  if (order) {
    [...document.querySelector("table.labels tbody").rows].forEach((row, place) => { row.dataset.place = place; });
    order.addEventListener("change", () => sortLabels(order.value));
  }
  document.querySelectorAll("#measured, #confusion, table.subgroups").forEach(makeSortable);
  if (views.length) open((views.find((view) => view.row === facts.first) ?? views[0]).row);

  // The map last: Plotly takes longest, and nothing else waits for it.
  const script = made("script");
  script.textContent = await unpack(byId("plotly"));
  document.head.append(script);
  const colour = byId("colour");
  const groups = ["predictions", "truth", "quality", "device", "metadata", "account"];
  colour.replaceChildren(...groups.map((group) => {
    const some = columns.map((column, i) => [column, i]).filter(([column]) => column.group === group);
    const options = some.map(([column, i]) => made("option", { value: i, textContent: titleOf(column), selected: column === columns.shown }));
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

// The rows of the labels' table in another order; equal ones stay in the model's.
function sortLabels(order) {
  const body = document.querySelector("table.labels tbody"), rows = [...body.rows].sort((a, b) => a.dataset.place - b.dataset.place);
  if (order === "name") rows.sort((a, b) => collator.compare(a.dataset.label, b.dataset.label));
  else if (order !== "order") rows.sort((a, b) => b.dataset[order] - a.dataset[order]);
  body.append(...rows);
}

// The heads of a table of numbers sort it: the largest first, then the least; names from A. Averages stay last.
function makeSortable(table) {
  for (const [at, head] of [...table.tHead.rows[0].cells].entries()) {
    if (head.tagName !== "TH") continue;
    const button = made("button", { type: "button", className: "plain" }, ...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const was = head.getAttribute("aria-sort"), up = at === 0 ? was !== "ascending" : was === "descending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const body = table.tBodies[0], rows = [...body.rows].filter((row) => !row.classList.contains("all"));
      // The number alone, not its interval; what is not defined comes last.
      const key = (row) => row.cells[at].firstChild.textContent.replace(/,/g, ""), sign = up ? 1 : -1;
      const number = (row) => Number.isNaN(parseFloat(key(row))) ? sign * Infinity : parseFloat(key(row));
      rows.sort((a, b) => sign * (at === 0 ? collator.compare(key(a), key(b)) : number(a) - number(b)) || 0);
      body.prepend(...rows);
    });
  }
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
