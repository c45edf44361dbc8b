"use strict";
// Draws a recording as an electrocardiograph does: in millimetres, 25 to the second and 10 to the millivolt.

const SVG = "http://www.w3.org/2000/svg";
const MM_PER_S = 25, MM_PER_MV = 10;
const PAGE_S = 10; // of a strip across the paper
const LEFT = 12, RIGHT = 3, TOP = 4, BOTTOM = 11; // margins in mm; the calibration pulse stands in the left one
const PULSE_S = 0.2;

const LAYOUTS = {
  // The four columns follow one another in time, as on paper; the rhythm strip runs through.
  standard: { name: "3 × 4 with rhythm strip", row_mm: 26,
    rows: [["I", "aVR", "V1", "V4"], ["II", "aVL", "V2", "V5"], ["III", "aVF", "V3", "V6"], ["II"]] },
  long: { name: "all leads, full length", row_mm: 17,
    rows: ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"].map((lead) => [lead]) },
};

// The traces of a recording, by lead, in units of `step`. A sum that overflows 16 bits comes back as it went.
function traces(view) {
  if (view.signals) return view.signals;
  const n = view.leads.length / view.lead_names.length;
  view.signals = new Map(view.lead_names.map((lead, i) => {
    const values = new Int16Array(n);
    for (let k = 0, value = 0; k < n; k++) values[k] = value = (value + view.leads[i * n + k]) << 16 >> 16;
    return [lead, values];
  }));
  return view.signals;
}

function element(name, attributes, parent, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent?.append(made);
  return made;
}

// Where each lead of a layout stands: in mm, and from when to when it is drawn.
function strips(view, layout, from) {
  const span = Math.min(PAGE_S, view.seconds - from);
  return layout.rows.flatMap((leads, row) => leads.map((lead, column) => ({
    lead,
    start: from + column * span / leads.length,
    end: from + (column + 1) * span / leads.length,
    x: LEFT + column * span / leads.length * MM_PER_S,
    y: TOP + (row + 0.5) * layout.row_mm,
    first: column === 0,
  })));
}

// Millimetres of paper to the millivolt, as a printout has it: 10, or half or a quarter of it where complexes would run into
// the next row. The same for all of a recording.
const GAINS = [MM_PER_MV, MM_PER_MV / 2, MM_PER_MV / 4];

function gainOf(view, layout) {
  if (!view.millivolts) return MM_PER_MV;
  view.gains ??= {};
  return view.gains[layout.name] ??= GAINS.find((gain) => gain === GAINS.at(-1) || !collides(view, layout, gain * view.step));
}

// Whether somewhere a trace comes down to where the one below it goes up, at the same time within a millimetre.
function collides(view, layout, scale) {
  const signals = traces(view), bin = Math.max(1, Math.round(view.rate / MM_PER_S));
  return layout.rows.slice(1).some((below, row) => below.some((lead, column) => {
    const above = layout.rows[row];
    const over = below.length === above.length ? [above[column]] : above; // a rhythm strip lies below several leads
    const under = signals.get(lead);
    return over.some((name) => {
      const values = signals.get(name);
      for (let start = 0; start < values.length; start += bin) {
        const end = Math.min(start + 2 * bin, values.length); // each with the next, as a peak may lie on the border
        let least = Infinity, most = -Infinity;
        for (let i = start; i < end; i++) { least = Math.min(least, values[i]); most = Math.max(most, under[i]); }
        if ((most - least) * scale > layout.row_mm) return true;
      }
      return false;
    });
  }));
}

// One millimetre of paper height per so many steps: of the gain, or what makes an unknown unit fill half a row.
function millimetres(view, layout) {
  if (view.millivolts) return gainOf(view, layout) * view.step;
  let largest = 1;
  for (const values of traces(view).values()) for (const value of values) largest = Math.max(largest, Math.abs(value));
  return 0.5 * layout.row_mm / largest;
}

function path(values, rate, strip, scale) {
  const first = Math.max(0, Math.ceil(strip.start * rate - 1e-6));
  const last = Math.min(values.length - 1, Math.floor(strip.end * rate + 1e-6));
  const points = [];
  for (let i = first; i <= last; i++) {
    const x = strip.x + (i / rate - strip.start) * MM_PER_S, y = strip.y - values[i] * scale;
    points.push(`${x.toFixed(2)} ${y.toFixed(2)}`);
  }
  return points.length ? "M" + points.join("L") : "";
}

// What lies behind the traces as colour, by time: for each strip the values of its stretches, -1 to 1.
function washes(view, wash) {
  if (wash === "attention" && view.attention) return () => Array.from(view.attention, (value) => value / 255);
  const attribution = view.attributions[Number(wash)];
  if (!attribution) return null;
  const n = attribution.values.length / view.lead_names.length;
  return (lead) => {
    const start = view.lead_names.indexOf(lead) * n;
    return Array.from(attribution.values.subarray(start, start + n), (value) => value / 127);
  };
}

// A picture of one pixel per stretch. `colours` has what is more than nothing and what is less, as [r, g, b].
function picture(values, [more, less]) {
  const canvas = document.createElement("canvas");
  canvas.width = values.length;
  canvas.height = 1;
  const context = canvas.getContext("2d"), image = context.createImageData(values.length, 1);
  values.forEach((value, i) => image.data.set([...(value < 0 ? less : more), 255 * 0.6 * Math.abs(value)], 4 * i));
  context.putImageData(image, 0, 0);
  return canvas.toDataURL();
}

function grid(svg, width, height) {
  const defs = element("defs", {}, svg);
  for (const [id, size] of [["fine", 1], ["bold", 5]]) {
    const pattern = element("pattern", { id: `paper-${id}`, width: size, height: size, patternUnits: "userSpaceOnUse",
      x: LEFT, y: TOP }, defs);
    element("path", { d: `M${size} 0H0V${size}`, class: `grid-${id}` }, pattern);
    element("rect", { width, height, fill: `url(#paper-${id})` }, svg);
  }
}

// What the scale is wherever the paper is narrower than its true width, `width` in mm: on a phone, in print. The browser
// chooses by the width that it gives the paper; no script could, for none sees the width in print.
function scales(width, millivolts, gain) {
  const said = (mm) => {
    const speed = `${mm === MM_PER_S ? MM_PER_S : mm.toFixed(1)} mm/s`, height = gain * mm / MM_PER_S;
    if (!millivolts) return `${speed}, arbitrary amplitude, no unit in the file`;
    return `${speed}, ${mm === MM_PER_S ? gain : height.toFixed(1)} mm/mV`;
  };
  const rules = [`.sheet .scale::after { content: "${said(MM_PER_S)}"; }`];
  for (let tenths = 10 * MM_PER_S - 1; tenths >= 10; tenths--) {
    const most = (width * (tenths + 0.5) / (10 * MM_PER_S)).toFixed(2);
    rules.push(`@container sheet (max-width: ${most}mm) { .sheet .scale::after { content: "${said(tenths / 10)}"; } }`);
  }
  // A phone's millimetres are none: what a square of the grid means is true at any size.
  const square = `a large square: 0.2 s${millivolts ? `, ${5 / gain} mV` : ", arbitrary amplitude"}`;
  rules.push(`@media screen and (max-width: 640px), screen and (pointer: coarse) { .sheet .scale::after { content: "${square}" !important; } }`);
  return rules.join("\n");
}

/** Draw ten seconds of a recording into an element.
 *
 * view: as report/waveform.py codes it. options: `layout` of LAYOUTS, `wash` ("none", "attention" or the number of an
 * attribution), `from` in seconds, `name` for who hears the page. Returns the millimetres to the millivolt.
 */
function paper(parent, view, options) {
  const layout = LAYOUTS[options.layout], from = options.from ?? 0, style = getComputedStyle(document.documentElement);
  const span = Math.min(PAGE_S, view.seconds - from);
  const width = LEFT + Math.max(span, 2.5) * MM_PER_S + RIGHT, height = TOP + layout.rows.length * layout.row_mm + BOTTOM;
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", class: "paper",
    "aria-label": `12-lead ECG of ${options.name}, from ${from.toFixed(1)} to ${(from + span).toFixed(1)} seconds` });
  grid(svg, width, height);
  const wash = washes(view, options.wash), scale = millimetres(view, layout), signals = traces(view);
  const gain = gainOf(view, layout);
  const colours = (options.wash === "attention" ? ["--attention", "--attention"] : ["--favour", "--against"])
    .map((name) => style.getPropertyValue(name).split(",").map(Number));
  const washed = element("g", { class: "wash" }, svg), drawn = element("g", { class: "traces" }, svg);
  const words = element("g", { class: "words" }, svg);
  for (const strip of strips(view, layout, from)) {
    const right = strip.x + (strip.end - strip.start) * MM_PER_S, top = strip.y - layout.row_mm / 2;
    if (wash) {
      const first = Math.floor(strip.start / view.stride_s), values = wash(strip.lead);
      const some = values.slice(first, Math.ceil(strip.end / view.stride_s));
      if (some.length) {
        const clip = element("svg", { x: strip.x, y: top, width: right - strip.x, height: layout.row_mm,
          overflow: "hidden" }, washed); // the first and the last stretch may begin and end outside of the strip
        element("image", { x: (first * view.stride_s - strip.start) * MM_PER_S, y: 0, preserveAspectRatio: "none",
          width: some.length * view.stride_s * MM_PER_S, height: layout.row_mm, href: picture(some, colours),
          "data-lead": strip.lead }, clip);
      }
    }
    for (const border of view.borders.filter((border) => border > strip.start && border < strip.end)) {
      const x = strip.x + (border - strip.start) * MM_PER_S;
      element("path", { d: `M${x} ${top}v${layout.row_mm}`, class: "border" }, drawn);
    }
    if (view.end < strip.end) {
      const x = strip.x + Math.max(0, view.end - strip.start) * MM_PER_S;
      element("rect", { x, y: top, width: right - x, height: layout.row_mm, class: "unseen" }, washed);
    }
    element("path", { d: path(signals.get(strip.lead), view.rate, strip, scale), class: "trace", "data-lead": strip.lead },
      drawn);
    if (!strip.first) element("path", { d: `M${strip.x} ${strip.y - 4}v8`, class: "cut" }, drawn);
    const made = view.made.includes(strip.lead) ? " *" : "";
    element("text", { x: strip.x + 1, y: top + 4.5 }, words, strip.lead + made);
    if (strip.first && view.millivolts) {
      const pulse = PULSE_S * MM_PER_S, y = strip.y;
      element("path", { d: `M3 ${y}h1v${-gain}h${pulse}v${gain}h1`, class: "trace pulse" }, drawn);
    }
  }
  for (let second = Math.ceil(from); second <= from + span + 1e-6; second++) {
    element("text", { x: LEFT + (second - from) * MM_PER_S, y: height - 7, class: "time" }, words, `${second} s`);
  }
  caliper(svg, view.millivolts && gain);
  const sheet = document.createElement("div"), says = document.createElement("div"), rules = document.createElement("style");
  sheet.className = "sheet";
  for (const [name, value] of Object.entries({ width, height })) sheet.style.setProperty(`--${name}`, value);
  says.className = "scale";
  rules.textContent = scales(width, view.millivolts, gain);
  sheet.append(rules, svg, says);
  parent.replaceChildren(sheet);
  return gain;
}

// Measure by dragging: milliseconds, the rate that this would be as an RR interval, millivolts.
function caliper(svg, gain) {
  const group = element("g", { class: "caliper", visibility: "hidden" }, svg);
  const box = element("rect", {}, group), text = element("text", {}, group);
  let begin = null;
  const at = (event) => new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  svg.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "touch" || event.button) return; // a finger scrolls
    begin = at(event);
    svg.setPointerCapture(event.pointerId);
    group.setAttribute("visibility", "hidden");
    event.preventDefault();
  });
  svg.addEventListener("pointermove", (event) => {
    if (!begin) return;
    const now = at(event), x = Math.min(begin.x, now.x), y = Math.min(begin.y, now.y);
    const wide = Math.abs(now.x - begin.x), high = Math.abs(now.y - begin.y);
    for (const [key, value] of Object.entries({ x, y, width: wide, height: high })) box.setAttribute(key, value);
    const ms = wide / MM_PER_S * 1000;
    text.textContent = `${ms.toFixed(0)} ms` + (ms >= 200 ? `, ${(60000 / ms).toFixed(0)}/min` : "")
      + (gain ? `, ${(high / gain).toFixed(2)} mV` : "");
    text.setAttribute("x", x);
    text.setAttribute("y", y > 6 ? y - 1.5 : y + high + 4.5);
    group.setAttribute("visibility", "visible");
  });
  svg.addEventListener("pointerup", () => { begin = null; });
}
