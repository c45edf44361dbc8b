"use strict";
// The recordings as a table. It sorts and filters columns of numbers and codes, not a hundred thousand objects.

const NONE = 65535; // a probability that there is not
const PROBABILITY_STEP = 1e-4;
const SMALLEST = 0.0005; // of a residual; below it is rounding

// What a column is called: in words, or as in the inputs.
const titleOf = (column) => column.title ?? column.name;

function columnsOf(rows, thresholds) {
  const columns = [...rows.columns];
  rows.labels.forEach((name, i) => {
    const packed = rows.probabilities[i], numbers = new Float64Array(packed.length);
    for (let row = 0; row < packed.length; row++) numbers[row] = packed[row] === NONE ? NaN : packed[row] * PROBABILITY_STEP;
    columns.push({ name, group: "predictions", numbers, threshold: thresholds[i] });
  });
  return columns;
}

function text(column, row) {
  if (column.numbers) {
    const value = column.numbers[row];
    if (Number.isNaN(value)) return "";
    if (column.group === "predictions") return value.toFixed(4);
    if (column.group === "quality") return value && Math.abs(value) < SMALLEST ? "< 0.001" : String(Number(value.toPrecision(3)));
    return String(Number.isInteger(value) ? value : Number(value.toPrecision(6)));
  }
  return column.codes[row] ? column.values[column.codes[row] - 1] : "";
}

const ROWS_AT_A_TIME = 100;

// What a filter asks for: "> 0.5", "0.2..0.4" or "= 3" of a number, any part of a text.
function filterOf(column, asked) {
  const range = asked.match(/^\s*(-?[\d.]+)\s*\.\.\s*(-?[\d.]+)\s*$/), compare = asked.match(/^\s*(>=|<=|>|<|=)?\s*(-?[\d.]+)\s*$/);
  if (column.numbers && range) return (row) => column.numbers[row] >= +range[1] && column.numbers[row] <= +range[2];
  if (column.numbers && compare) {
    const limit = +compare[2];
    const holds = { ">=": (v) => v >= limit, "<=": (v) => v <= limit, ">": (v) => v > limit, "<": (v) => v < limit }[compare[1]]
      ?? ((v) => v === limit);
    return (row) => holds(column.numbers[row]);
  }
  const part = asked.trim().toLowerCase();
  if (!column.codes) return (row) => text(column, row).toLowerCase().includes(part);
  // Of a text, each value is looked at once. "(none)" finds what has none.
  const fits = Uint8Array.from(["", ...column.values], (value) => part === "(none)" ? value === "" : value.toLowerCase().includes(part));
  return (row) => fits[column.codes[row]];
}

class Table {
  constructor(root, rows, columns, onPick) {
    Object.assign(this, { root, columns, onPick, n: rows.names.length });
    this.name = { name: "recording", group: "name", codes: Uint32Array.from(rows.names, (_, i) => i + 1), values: rows.names };
    this.at = (part) => root.querySelector(`[data-part="${part}"]`);
    this.filters = new Map(); // column -> what is asked for
    this.only = null; // rows that are selected on the map
    this.sorted = { column: null, down: false };
    this.page = 0;
    const groups = [...new Set(columns.map((column) => column.group))];
    this.at("group").replaceChildren(...groups.map((group) => made("option", { value: group, textContent: group })));
    this.at("group").addEventListener("change", () => this.head());
    this.at("clear").addEventListener("click", () => this.ask({}));
    for (const [part, step] of [["before", -1], ["next", 1]]) {
      this.at(part).addEventListener("click", () => { this.page += step; this.body(); });
    }
    this.head();
  }

  // Show the rows that a person, or another part of the page, asks for; `filters` is {column name: text}.
  ask({ filters = {}, group, sort, down = false, near, only = null }) {
    // A column of the inputs may have a label's name.
    const named = (name) => this.all().filter((column) => column.name === name);
    const find = (name) => named(name).find((column) => column.group === group)
      ?? named(name).find((column) => column.group === "truth") ?? named(name)[0];
    this.filters = new Map(Object.entries(filters).map(([name, asked]) => [find(name), asked]).filter(([column]) => column));
    this.sorted = { column: sort ? find(sort) : null, down, near };
    this.only = only && new Set(only);
    if (group) this.at("group").value = group;
    this.head();
  }

  all() {
    return [this.name, ...this.columns];
  }

  shown() {
    const group = this.at("group").value;
    // Columns that filter come first, and stay in view whichever others are shown.
    const filtering = [...this.filters.keys()].filter((column) => column !== this.name);
    return [this.name, ...filtering, ...this.columns.filter((column) => column.group === group && !this.filters.has(column))];
  }

  head() {
    const heads = this.shown().map((column) => {
      const button = made("button", { type: "button", textContent: titleOf(column), title: column.name });
      button.addEventListener("click", () => {
        this.sorted = { column, down: this.sorted.column === column ? !this.sorted.down : Boolean(column.numbers) };
        this.head();
        this.root.querySelector("th[aria-sort] button")?.focus();
      });
      const head = made("th", { scope: "col", className: column.numbers ? "number" : "" }, button);
      if (this.sorted.column === column) head.setAttribute("aria-sort", this.sorted.down ? "descending" : "ascending");
      return head;
    });
    const inputs = this.shown().map((column) => {
      const input = made("input", { type: "search", size: 8, value: this.filters.get(column) ?? "",
        placeholder: column.numbers ? "> 0.5, 1..2" : "contains" });
      input.setAttribute("aria-label", `Filter ${titleOf(column)}`);
      input.addEventListener("input", () => {
        if (input.value.trim()) this.filters.set(column, input.value);
        else this.filters.delete(column);
        this.filter();
      });
      return made("td", {}, input);
    });
    this.at("head").replaceChildren(made("tr", {}, ...heads), made("tr", { className: "filters" }, ...inputs));
    this.filter();
  }

  filter() {
    const tests = [...this.filters].map(([column, asked]) => filterOf(column, asked));
    const found = [];
    for (let row = 0; row < this.n; row++) {
      if ((!this.only || this.only.has(row)) && tests.every((test) => test(row))) found.push(row);
    }
    const { column, down, near } = this.sorted;
    if (column) {
      const sign = down ? -1 : 1, { numbers, codes } = column;
      let key = near === undefined ? (row) => numbers?.[row] : (row) => Math.abs(numbers[row] - near);
      if (codes) {
        // Values are sorted once, as people read them; what has none comes last.
        const order = column.values.map((value, i) => [value, i + 1]).sort(([a], [b]) => collator.compare(a, b));
        const rank = new Float64Array(column.values.length + 1).fill(NaN);
        order.forEach(([, code], i) => { rank[code] = i; });
        key = (row) => rank[codes[row]];
      }
      found.sort((a, b) => {
        const x = key(a), y = key(b);
        if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
        return sign * (x - y);
      });
    }
    this.found = found;
    this.page = 0;
    this.body();
  }

  body() {
    const columns = this.shown(), pages = Math.max(1, Math.ceil(this.found.length / ROWS_AT_A_TIME));
    const first = this.page * ROWS_AT_A_TIME, rows = this.found.slice(first, first + ROWS_AT_A_TIME);
    this.at("body").replaceChildren(...rows.map((row) => {
      const name = made("button", { type: "button", textContent: text(this.name, row) });
      name.addEventListener("click", () => this.onPick(row));
      const cells = columns.slice(1).map((column) => made("td", { textContent: text(column, row),
        className: `${column.numbers ? "number" : ""}${column.threshold <= column.numbers?.[row] ? " positive" : ""}` }));
      const line = made("tr", {}, made("th", { scope: "row" }, name), ...cells);
      line.dataset.row = row;
      return line;
    }));
    const selected = this.only ? ", of those selected on the map" : "";
    this.at("count").textContent = `${this.found.length.toLocaleString("en")} of ${this.n.toLocaleString("en")} recordings${selected}`;
    this.at("page").textContent = `${this.page + 1} of ${pages}`;
    this.at("before").disabled = this.page === 0;
    this.at("next").disabled = this.page >= pages - 1;
    this.at("clear").disabled = !this.filters.size && !this.only && !this.sorted.column;
  }
}

const collator = new Intl.Collator("en", { numeric: true });
