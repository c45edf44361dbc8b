"use strict";
// One recording beside what the model says of it. Every text of the data is set as text, never as markup.

function made(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

// Plots are as wide as the screen, and would be so in print: the width of a portrait A4 without its margins.
const PAPER_PX = 720, onPaper = () => matchMedia("print").matches;

const digits = (value, places) => value === null || Number.isNaN(value) ? "–" : value.toFixed(places);

// Columns of a user's table that stand over a recording, as on a printout of the machine, by what they are called there.
const HEADER = { age: /^age(_years)?$/i, sex: /^(sex|gender)$/i, recorded: /^(recorded|acquired|ecg_time|recording_date|date)$/i,
  device: /^(device|machine)$/i };

// What the device measured: the column, what it is called, and its unit.
const DEVICE = [["device_heart_rate", "rate", "/min"], ["device_pr_ms", "PR", " ms"], ["device_qrs_ms", "QRS", " ms"], ["device_qt_ms", "QT", " ms"],
  ["device_qtc_ms", "QTc", " ms"], ["device_p_axis", "P axis", "°"], ["device_qrs_axis", "QRS axis", "°"], ["device_t_axis", "T axis", "°"]];

// What begins the values of the choice of a colour that stand for labels to which the recording is not attributed.
const OTHER = "other:";

// A word of a command line, as a shell takes it.
const word = (text) => /^[\w./-]+$/.test(text) ? text : `'${text.replace(/'/g, "'\\''")}'`;

// The command that attributes a recording of the run beside the page to a label; `name` is null where the page names none.
function attributing(name, label, ownModel) {
  const options = `--label ${word(label)}${ownModel ? " --model FILE.py" : ""}`;
  if (name === null) return `ecgpipe show . RECORD_ID ${options}`;
  return name.startsWith("-") ? `ecgpipe show ${options} -- . ${word(name)}` : `ecgpipe show . ${word(name)} ${options}`;
}

// Lines of a list that are shown at first; a button shows the others.
const MOST_LINES = 24;

// Shows a recording in #viewer; `recording` is what ecgpipe/show.py and ecgpipe/report.py call so. `attributable` has the
// `labels` of the model, whether the page names recordings (`paths`), and whether the model is the user's own (`own`).
class Viewer {
  constructor(root, onNeighbor, attributable = null) {
    this.attributable = attributable;
    this.root = root;
    this.onNeighbor = onNeighbor;
    this.at = (part) => root.querySelector(`[data-part="${part}"]`);
    this.layout = "standard";
    this.from = 0;
    this.at("layout").replaceChildren(...Object.entries(LAYOUTS).map(([value, layout]) =>
      made("option", { value, textContent: layout.name })));
    this.at("layout").addEventListener("change", (event) => { this.layout = event.target.value; this.draw(); });
    this.at("wash").addEventListener("change", (event) => { this.wash = event.target.value; this.draw(); });
    for (const [part, step] of [["earlier", -PAGE_S], ["later", PAGE_S]]) {
      this.at(part).addEventListener("click", () => { this.from += step; this.draw(); });
    }
    for (const media of ["(prefers-color-scheme: dark)", "print"]) {
      matchMedia(media).addEventListener("change", () => this.draw());
    }
  }

  show(recording) {
    this.recording = recording;
    this.from = 0;
    const { view } = recording;
    this.at("name").textContent = recording.name;
    this.at("header").replaceChildren(...this.header(recording));
    this.at("why").textContent = recording.why.join("; ");
    const device = this.device(recording);
    this.at("device").replaceChildren(...device);
    this.at("device").hidden = !device.length;
    fill(this.at("probabilities"), recording.probabilities.map((label) => [bar(label)]), "labels");
    this.at("probabilities").hidden = this.at("bars").hidden = !recording.probabilities.length;
    const told = recording.facts.filter(([, value, column]) => value !== "" && !column?.startsWith("device_"));
    fill(this.at("facts"), told.map(([name, value]) => [made("dt", { textContent: name }), made("dd", { textContent: value })]), "facts");
    this.at("neighbors-head").hidden = !recording.neighbors.length;
    this.at("neighbors").replaceChildren(...recording.neighbors.map((neighbor) => {
      // A sample has no row for some of them.
      const leads = this.onNeighbor && neighbor.row !== null;
      const name = made(leads ? "button" : "span", { textContent: neighbor.name, ...(leads && { type: "button" }) });
      if (leads) name.addEventListener("click", () => this.onNeighbor(neighbor.row));
      return made("li", {}, name, made("span", { className: "muted", textContent: ` ${digits(neighbor.similarity, 3)}` }));
    }));
    this.at("note").textContent = recording.note ?? "";
    this.at("note").hidden = !recording.note;
    this.at("controls").hidden = this.at("figure").hidden = !view;
    if (!view) return;
    const washes = [["none", "nothing"]];
    if (view.attention) washes.push(["attention", "attention"]);
    view.attributions.forEach(({ label }, i) => washes.push([String(i), `attribution to ${label}`]));
    const asked = view.attributions.findIndex(({ label }) => label === recording.label); // of who asked for it
    if (asked >= 0) this.wash = String(asked);
    if (!washes.some(([value]) => value === this.wash)) this.wash = "none";
    this.at("wash").replaceChildren(...washes.map(([value, textContent]) => made("option", { value, textContent })), ...this.others(view));
    this.draw();
  }

  // The labels to which an attributed recording is not attributed: to choose one says what to run.
  others({ attributions }) {
    const done = new Set(attributions.map(({ label }) => label));
    const left = done.size ? (this.attributable?.labels ?? []).filter((label) => !done.has(label)) : [];
    const options = left.map((label) => made("option", { value: OTHER + label, textContent: label }));
    return left.length ? [made("optgroup", { label: "attribution to another label" }, ...options)] : [];
  }

  // Heart rate, age, sex, date and device, as far as they are known.
  header({ view, facts }) {
    const known = Object.entries(HEADER).map(([name, pattern]) => [name, facts.find(([column]) => pattern.test(column))?.[1]]);
    if (view) known.unshift(["heart rate, measured here", view.heart_rate === null ? "not measurable" : `${view.heart_rate}/min`]);
    return known.filter(([, value]) => value).map(([name, value]) =>
      made("span", {}, `${name} `, made("strong", { textContent: value })));
  }

  // What the machine that recorded it measured and said, as far as its file has it.
  device({ facts, statements = [] }) {
    const said = DEVICE.map(([column, name, unit]) => [name, facts.find(([, , of]) => of === column)?.[1], unit]).filter(([, value]) => value)
      .map(([name, value, unit]) => made("span", {}, `${name} `, made("strong", { textContent: value + unit })));
    if (statements.length) said.push(made("span", {}, "statements ", made("strong", { textContent: statements.join("; ") })));
    return said.length ? [made("span", { className: "muted", textContent: "From the device:" }), ...said] : [];
  }

  draw() {
    const { view, name } = this.recording ?? {};
    if (!view) return;
    this.at("layout").value = this.layout;
    this.at("wash").value = this.wash;
    const gain = paper(this.at("paper"), view, { layout: this.layout, wash: this.wash, from: this.from, name });
    const several = view.seconds > PAGE_S + 0.01, until = Math.min(this.from + PAGE_S, view.seconds);
    this.at("pages").hidden = !several;
    this.at("page").textContent = `${this.from} to ${until.toFixed(1)} s`;
    this.at("earlier").disabled = this.from <= 0;
    this.at("later").disabled = until >= view.seconds - 0.01;
    this.at("caption").replaceChildren(...this.caption(view, gain));
  }

  // What to run for an attribution that the page does not have.
  missing(label) {
    const { paths, own } = this.attributable;
    const command = attributing(paths ? this.recording.name : null, label, own);
    const said = ["This page has no attribution to ", made("strong", { textContent: label }), ". Run where the results lie, this makes a page with it: ",
      made("code", { textContent: command }), "."];
    if (!paths) said.push(` RECORD_ID is the record_id of row ${this.recording.name} of records/.`);
    if (own) said.push(" FILE.py is the file of the model.");
    return said;
  }

  caption(view, gain) {
    const said = [], attribution = view.attributions[Number(this.wash)];
    if (this.wash === "attention") {
      said.push("Attention: ", made("span", { className: "key scale" }), " from its least to its most in the recording, in the "
        + "last layer. It shows where the model "
        + "looked, not why: it is the same for all labels and all leads.");
    }
    if (attribution) {
      said.push(made("span", { className: "key favour" }), "positive, ", made("span", { className: "key against" }), "negative attribution to ",
        made("strong", { textContent: attribution.label }), ": integrated gradients of the logit, from a flat line. "
        + attribution.judged + " Colours are as fine as a token, and the strongest 0.5 % are all drawn alike.");
    }
    if (this.wash.startsWith(OTHER)) said.push(...this.missing(this.wash.slice(OTHER.length)));
    if (view.seconds < view.of_seconds - 0.01) {
      said.push(` The first ${digits(view.seconds, 0)} of ${digits(view.of_seconds, 1)} s are drawn.`);
    }
    if (view.borders.length) said.push(" Dotted lines: where a segment begins.");
    if (view.end < view.seconds - 0.01) said.push(" ", made("span", { className: "key unseen" }), "fills no segment, the model did not see it.");
    if (gain < MM_PER_MV) said.push(` Drawn at ${gain} mm/mV: at ${MM_PER_MV} its complexes would run into the next row.`);
    if (view.made.length) said.push(` * not recorded, but derived or zero: ${view.made.join(", ")}.`);
    said.push(" Each lead around its median.", made("span", { className: "mouse", textContent: " Drag with the mouse to measure." }));
    return said;
  }
}

// Fill a list with its first lines, each of some nodes, and a button that shows the others.
function fill(list, lines, what) {
  const shown = lines.length > MOST_LINES + 2 ? MOST_LINES : lines.length;
  list.replaceChildren(...lines.slice(0, shown).flat());
  list.parentNode.querySelector(".more")?.remove();
  if (shown === lines.length) return;
  const more = made("button", { type: "button", className: "plain small more", textContent: `Show all ${lines.length} ${what}` });
  more.addEventListener("click", () => { list.append(...lines.slice(shown).flat()); more.remove(); });
  list.after(more);
}

// A label's probability as a bar; `threshold` is where positive begins, `truth` its true label if that is known.
function bar({ name, probability, threshold, truth }) {
  const positive = probability >= threshold, share = `${(100 * probability).toFixed(2)}%`;
  const mark = made("i");
  mark.style.left = `${100 * threshold}%`;
  const fill = made("span");
  fill.style.width = share;
  const value = made("span", { textContent: digits(probability, 4) });
  return made("div", { className: `probability${positive ? "" : " below"}` },
    made("div", {}, made("span", { className: "label", textContent: name }), ...(truth ? [truthMark(truth, positive)] : []), value),
    made("div", { className: "bar" }, fill, mark));
}

// The true label beside a probability, and whether the threshold agrees with it.
function truthMark(truth, positive) {
  const is = truth === "yes", right = is === positive;
  return made("span", { className: `truth ${right ? "right" : "wrong"}`,
    textContent: right ? `true: ${truth}` : `true: ${truth}, ${positive ? "false positive" : "false negative"}` });
}
