"use strict";
// The map of the segments, coloured by a column of their recordings.

// Okabe and Ito's colours, which the colour-blind tell apart, and three more; then what is left, in grey.
const CATEGORIES = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a7ad6", "#a6761d", "#5f8a1d"];

function categories(column, row) {
  // The most frequent values have a colour each.
  const counts = new Map();
  for (const point of row) counts.set(column.codes[point], (counts.get(column.codes[point]) ?? 0) + 1);
  const codes = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a)), few = codes.slice(0, CATEGORIES.length);
  const place = new Map(few.map((code, i) => [code, i]));
  const groups = few.map((code, i) => ({ name: code ? column.values[code - 1] : "(none)", colour: code ? CATEGORIES[i] : "#999",
    points: [] }));
  if (codes.length > few.length) groups.push({ name: `${codes.length - few.length} others`, colour: "#999", points: [] });
  row.forEach((point, i) => groups[place.get(column.codes[point]) ?? few.length].points.push(i));
  return groups;
}

// Plotly reads tags in texts.
const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

class AtlasMap {
  constructor(root, points, columns, names, onPick, onSelect, { height = 580, legend = true, type } = {}) {
    Object.assign(this, { root, points, columns, names, onPick, height, legend });
    this.type = type ?? (document.createElement("canvas").getContext("webgl") ? "scattergl" : "scatter");
    this.size = points.x.length < 500 ? 9 : points.x.length < 5000 ? 6 : points.x.length < 30000 ? 4 : 3;
    if (height < 580) this.size = Math.max(3, this.size - 2);
    this.marked = [];
    this.tip = root.parentNode.querySelector(".tip");
    // Plotly's bar has a button that uploads a chart to plotly.com: never with a patient's data.
    this.config = { displaylogo: false, displayModeBar: !finger, responsive: true, showSendToCloud: false, plotlyServerURL: "", scrollZoom: !finger,
      modeBarButtonsToRemove: ["autoScale2d"] };
    this.colourBy(columns.findIndex((column) => column === columns.shown));
    root.on("plotly_click", (event) => this.pick(event));
    root.on("plotly_hover", (event) => this.hover(event));
    root.on("plotly_unhover", () => { this.tip.hidden = true; });
    root.on("plotly_selected", (event) => onSelect(event?.points.length ? this.pointsOf(event) : null));
    root.on("plotly_deselect", () => onSelect(null));
    for (const media of ["(prefers-color-scheme: dark)", "print"]) {
      matchMedia(media).addEventListener("change", () => this.draw());
    }
  }

  colourBy(number) {
    const column = this.columns[number];
    this.column = column;
    if (!column) {
      this.groups = [{ name: "segments", colour: "#0b6b77", points: [...this.points.row.keys()] }];
    } else if (column.numbers) {
      // Points without a value lie below the others, in grey.
      const value = Float32Array.from(this.points.row, (row) => column.numbers[row]);
      const [with_, without] = [[], []];
      value.forEach((number, point) => (Number.isNaN(number) ? without : with_).push(point));
      this.groups = [{ name: "(none)", colour: "#999", points: without },
        { name: titleOf(column), points: with_, values: Float32Array.from(with_, (point) => value[point]) }]
        .filter((group) => group.points.length);
    } else {
      this.groups = categories(column, this.points.row);
    }
    this.draw();
  }

  draw() {
    const { x, y, density } = this.points, data = [];
    if (density) {
      data.push({ type: "heatmap", x: density.x, y: density.y, z: chunks(density.counts, density.x.length - 1), hoverinfo: "skip",
        colorscale: [[0, "rgba(128,128,128,0)"], [1, "rgba(128,128,128,0.6)"]], showscale: false, zsmooth: false });
    }
    this.first = data.length;
    for (const group of this.groups) {
      const marker = { size: this.size, opacity: 0.8, color: group.values ?? group.colour };
      if (group.values) Object.assign(marker, { colorscale: "Viridis", colorbar: { thickness: 12, outlinewidth: 0, len: 0.9 } }, this.column.range);
      data.push({ type: this.type, mode: "markers", name: plain(group.name), x: Float32Array.from(group.points, (i) => x[i]),
        y: Float32Array.from(group.points, (i) => y[i]), marker, hoverinfo: "none", showlegend: this.legend && this.groups.length > 1 });
    }
    this.rings = data.length;
    data.push({ type: this.type, mode: "markers", name: "found", x: Float32Array.from(this.marked, (i) => x[i]),
      y: Float32Array.from(this.marked, (i) => y[i]), hoverinfo: "skip", showlegend: false,
      marker: { size: this.size + 8, symbol: "circle-open", color: css("--red"), line: { width: 2 } } });
    const axis = { showticklabels: false, zeroline: false, ticks: "", gridcolor: css("--line") };
    const colour = { font: { family: "system-ui, sans-serif", size: 12, color: css("--ink") }, paper_bgcolor: css("--card"),
      plot_bgcolor: css("--card"), modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--muted"), activecolor: css("--accent") } };
    this.data = data;
    Plotly.react(this.root, data, { height: this.height, width: onPaper() ? PAPER_PX : undefined, margin: { l: 30, r: 8, t: 30, b: 30 }, hovermode: "closest", uirevision: "same",
      dragmode: finger ? false : "pan", legend: { itemsizing: "constant" }, xaxis: { ...axis, title: { text: "UMAP 1" } },
      yaxis: { ...axis, title: { text: "UMAP 2" } }, ...colour }, this.config);
  }

  point({ curveNumber, pointNumber }) {
    return this.groups[curveNumber - this.first]?.points[pointNumber];
  }

  pointsOf(event) {
    return event.points.map((found) => this.point(found)).filter((point) => point !== undefined);
  }

  hover(event) {
    const point = this.point(event.points[0]);
    if (point === undefined) return;
    const row = this.points.row[point], value = this.column ? text(this.column, row) || "none" : "";
    this.tip.replaceChildren(made("strong", { textContent: this.names[row] }), made("br"),
      `segment ${this.points.segment[point]}`, ...(this.column ? [made("br"), `${titleOf(this.column)}: ${value}`] : []));
    const box = this.root.getBoundingClientRect(), { clientX, clientY } = event.event;
    this.tip.style.left = `${Math.min(clientX - box.left + 14, box.width - 240)}px`;
    this.tip.style.top = `${clientY - box.top + 14}px`;
    this.tip.hidden = false;
  }

  pick(event) {
    const point = this.point(event.points[0]);
    if (point !== undefined) this.onPick(this.points.row[point]);
  }

  // Put rings around the points of some rows.
  mark(rows) {
    const wanted = new Set(rows);
    this.marked = [];
    this.points.row.forEach((row, point) => { if (wanted.has(row)) this.marked.push(point); });
    const { x, y } = this.points;
    Plotly.restyle(this.root, { x: [Float32Array.from(this.marked, (i) => x[i])], y: [Float32Array.from(this.marked, (i) => y[i])] },
      [this.rings]);
  }
}

function chunks(array, width) {
  // On a logarithmic scale, as a few squares hold most of the points.
  return Array.from({ length: array.length / width }, (_, i) =>
    Array.from(array.subarray(i * width, (i + 1) * width), (count) => Math.log1p(count)));
}
