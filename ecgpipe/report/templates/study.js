"use strict";
// A study: one choice of a recording for the list, the viewer and all maps.

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const byId = (id) => document.getElementById(id);
const finger = matchMedia("(pointer: coarse)").matches; // dragging must scroll the page there
const MAP_HEIGHT = 380;

const quoted = (name) => /^[\w./-]+$/.test(name) && !name.startsWith("-") ? name : `-- '${name.replace(/'/g, "'\\''")}'`;

// Of several tables of the same rows show the chosen one.
function startTables() {
  for (const choice of document.querySelectorAll("select[data-tables]")) {
    const tables = byId(choice.dataset.tables).querySelectorAll("table");
    choice.addEventListener("change", () => {
      for (const table of tables) table.hidden = table.dataset.table !== choice.value;
    });
  }
}

// By model and statement the probability of each row; NaN without one, null where the model lacks the statement.
function probabilitiesOf(rows) {
  return rows.probabilities.map((columns) => columns.map((packed) => packed && Float64Array.from(packed, (step) =>
    step === NONE ? NaN : step * PROBABILITY_STEP)));
}

// The statements of a recording, those on which models are furthest apart first.
function statementsOf(rows, probability, row) {
  return rows.statements.map((name, place) => {
    const values = probability.map((columns) => columns[place]?.[row] ?? NaN), known = values.filter((value) => !Number.isNaN(value));
    return { name, place, values, spread: known.length ? Math.max(...known) - Math.min(...known) : -1 };
  }).filter(({ spread }) => spread >= 0).sort((a, b) => b.spread - a.spread);
}

function fillProbabilities(rows, probability, row) {
  const statements = statementsOf(rows, probability, row), table = byId("by-model");
  const labelled = [...rows.models.keys()].filter((model) => probability[model].some((column) => column));
  byId("probabilities").hidden = !statements.length;
  table.querySelector("thead").replaceChildren(made("tr", {}, made("th", { scope: "col", textContent: "Statement" }),
    ...labelled.map((model) => made("th", { scope: "col", className: "number", textContent: rows.models[model] }))));
  table.querySelector("tbody").replaceChildren(...statements.map(({ name, place, values }) => made("tr", {},
    made("th", { scope: "row", textContent: name }), ...labelled.map((model) => {
      const value = values[model];
      if (Number.isNaN(value)) return made("td", { className: "number muted", textContent: "–" });
      const threshold = rows.thresholds[model][place], positive = value >= threshold;
      const fill = made("span"), mark = made("i");
      fill.style.width = `${(100 * value).toFixed(2)}%`;
      mark.style.left = `${100 * threshold}%`;
      return made("td", { className: `number${positive ? "" : " below"}` },
        made(positive ? "strong" : "span", { textContent: digits(value, 3) }), made("div", { className: "bar" }, fill, mark));
    }))));
}

async function start() {
  const [rows, maps, views] = await Promise.all(["rows", "maps", "views"].map((id) => unpack(byId(`data-${id}`))));
  const probability = probabilitiesOf(rows), viewOf = new Map(views.map((view) => [view.row, view]));
  const viewer = new Viewer(byId("viewer"), null), overlay = byId("overlay"), atlas = [];
  let opened = null, picked = null; // the row, and the model that the reader chose to see over it

  // The view of a recording as one model sees it.
  const recordingOf = (row) => {
    const found = viewOf.get(row), own = found?.overlays[Number(overlay.value)];
    let note = found?.note ?? null;
    if (!found) note = `This page does not hold its leads.${rows.paths ? ` To see them: ecgpipe show RUN ${quoted(rows.names[row])}` : ""}`;
    return { name: rows.names[row], label: own?.attributions.at(-1)?.label, why: [], probabilities: [], facts: [], neighbors: [], note,
      view: found?.view ? { ...found.view, ...own } : null };
  };

  function open(row, scroll = false) {
    const overlays = viewOf.get(row)?.overlays ?? [];
    const models = rows.models.map((name, number) => [name, number]).filter(([, number]) => overlays[number]);
    overlay.replaceChildren(...models.map(([name, value]) => made("option", { value, textContent: name })));
    const shown = models.find(([, number]) => String(number) === picked) ?? models.find(([, number]) => overlays[number].attributions.length);
    if (shown) overlay.value = shown[1];
    byId("overlays").hidden = !models.length;
    byId("opened").hidden = false;
    opened = row;
    viewer.show(recordingOf(row));
    fillProbabilities(rows, probability, row);
    for (const line of document.querySelectorAll("#disagreements tbody tr")) line.classList.toggle("open", line.dataset.row === String(row));
    for (const map of atlas) map.mark([row]);
    if (scroll) byId("viewer").scrollIntoView();
  }

  overlay.addEventListener("change", () => {
    picked = overlay.value;
    viewer.show(recordingOf(opened));
  });
  const lines = [...document.querySelectorAll("#disagreements tbody tr")];
  for (const line of lines) line.querySelector("button").addEventListener("click", () => open(Number(line.dataset.row), true));
  byId("only")?.addEventListener("change", (event) => {
    const asked = event.target.value;
    for (const line of lines) line.hidden = Boolean(asked) && !JSON.parse(line.dataset.statements).includes(asked);
    byId("listed").textContent = asked ? `${lines.filter((line) => !line.hidden).length} listed` : "";
  });
  if (lines.length) open(Number(lines[0].dataset.row));
  if (maps.length) await startMaps(rows, maps, probability, atlas, open);
  if (opened !== null) for (const map of atlas) map.mark([opened]);
  document.documentElement.dataset.ready = "yes"; // for who waits for it
}

// The least and the largest of some numbers, as Plotly takes them.
function rangeOf(columns) {
  let cmin = Infinity, cmax = -Infinity;
  for (const column of columns) {
    for (const value of column ?? []) {
      if (value < cmin) cmin = value;
      if (value > cmax) cmax = value;
    }
  }
  return cmin < cmax ? { cmin, cmax } : {};
}

// One map for each model, coloured by its own probability of one statement.
async function startMaps(rows, maps, probability, atlas, open) {
  const script = made("script"), colour = byId("colour");
  script.textContent = await unpack(byId("data-plotly"));
  document.head.append(script);
  const none = new Float64Array(rows.names.length).fill(NaN);
  const names = ["disagreement", ...rows.statements];
  colour.replaceChildren(...names.map((textContent, value) => made("option", { value, textContent })));
  // One colour is one value on all maps.
  const ranges = names.map((_, i) => rangeOf(i ? probability.map((columns) => columns[i - 1]) : [rows.disagreement]));
  maps.forEach(({ number, points }, place) => {
    const columns = names.map((name, i) => ({ name, group: "predictions", range: ranges[i],
      numbers: i ? probability[number][i - 1] ?? none : rows.disagreement }));
    columns.shown = columns[0];
    const select = (selected) => {
      const chosen = selected ? new Set(selected.map((point) => points.row[point])) : [];
      for (const other of atlas) if (other !== atlas[place]) other.mark(chosen);
      byId("selected").textContent = selected ? `${chosen.size.toLocaleString("en")} recordings selected on the map of ${maps[place].model}` : "";
    };
    // A browser has few WebGL contexts, and each map would take three.
    atlas.push(new AtlasMap(byId(`plot-${place}`), points, columns, rows.names, (row) => open(row, true), select,
      { height: MAP_HEIGHT, legend: false, type: "scatter" }));
  });
  colour.addEventListener("change", () => { for (const map of atlas) map.colourBy(Number(colour.value)); });
}

startTables();
if (typeof DecompressionStream === "undefined") {
  byId("too-old").hidden = false;
} else {
  start().catch((error) => { byId("too-old").hidden = false; throw error; });
}
