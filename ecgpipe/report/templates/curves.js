"use strict";
// ROC, precision and recall, and calibration of one label at a time.

class Curves {
  constructor(root, labels) {
    this.labels = labels;
    this.choice = root.querySelector("#curves-of");
    if (!labels.length) return;
    root.querySelector("#curves").hidden = false;
    this.figures = new Map([...root.querySelectorAll("[data-curve]")].map((figure) => [figure.dataset.curve, figure]));
    this.choice.replaceChildren(...labels.map(({ name }, i) => made("option", { value: i, textContent: name })));
    this.choice.addEventListener("change", () => this.draw());
    for (const media of ["(prefers-color-scheme: dark)", "print"]) {
      matchMedia(media).addEventListener("change", () => this.draw());
    }
    this.draw();
  }

  draw() {
    const { name, said, at, prevalence, roc, pr, calibration } = this.labels[Number(this.choice.value)];
    const line = { color: css("--accent"), width: 2 }, dots = { color: css("--muted"), width: 1, dash: "dot" };
    const plain = { mode: "lines", hoverinfo: "skip", line: dots }, diagonal = { ...plain, x: [0, 1], y: [0, 1] };
    const threshold = (x, y) => ({ mode: "markers", x: [x], y: [y], marker: { size: 9, color: css("--reference") },
      hovertemplate: "at the threshold: %{x:.3f}, %{y:.3f}<extra></extra>" });
    const hovertemplate = "%{x:.3f}, %{y:.3f}<extra></extra>";
    this.plot("roc", "1 − specificity", "sensitivity", [diagonal, { mode: "lines", x: roc.x, y: roc.y, line, hovertemplate },
      threshold(1 - at.specificity, at.sensitivity)],
    `ROC curve of ${name}: ${said.roc}`, `${said.roc}. The dot is the threshold, the diagonal is chance.`);
    this.plot("pr", "recall", "precision", [{ ...plain, x: [0, 1], y: [prevalence, prevalence] },
      { mode: "lines", x: [0, ...pr.x], y: [pr.y[0], ...pr.y], line: { ...line, shape: "vh" }, hovertemplate },
      ...(at.ppv === null ? [] : [threshold(at.sensitivity, at.ppv)])],
    `Precision and recall of ${name}: ${said.pr}; chance is the prevalence of ${prevalence.toFixed(3)}`,
    `${said.pr}. The dot is the threshold, the dotted line the prevalence, ${prevalence.toFixed(3)}, which is chance.`);
    const { x, y, n, low, high } = calibration, shares = [...x.keys()].map((i) => `${y[i].toFixed(2)} at ${x[i].toFixed(2)} of ${n[i]}`);
    this.plot("calibration", "mean probability", "share of positives", [diagonal, { mode: "lines+markers", x, y, customdata: n,
      line: { ...line, width: 1 }, marker: { size: 6 }, hovertemplate: "%{y:.3f} of %{customdata:,} at %{x:.3f}<extra></extra>",
      error_y: { type: "data", symmetric: false, array: high.map((end, i) => end - y[i]), arrayminus: low.map((end, i) => y[i] - end),
        thickness: 1, width: 2, color: css("--muted") } }],
    `Calibration of ${name}: ${said.calibration}. Share of positives by mean probability: ${shares.join(", ")}`,
    `${said.calibration}. Each dot is a bin with its 95 % interval, recordings taken for independent; on the diagonal probabilities are shares.`);
  }

  plot(curve, x, y, traces, told, caption) {
    const figure = this.figures.get(curve), axis = { range: [-0.02, 1.02], zeroline: false, gridcolor: css("--line"), fixedrange: true };
    const layout = { width: onPaper() ? PAPER_PX / 3 : undefined, margin: { l: 50, r: 8, t: 10, b: 42 }, showlegend: false, hovermode: "closest", paper_bgcolor: css("--card"),
      plot_bgcolor: css("--card"), font: { family: "system-ui, sans-serif", size: 12, color: css("--ink") },
      xaxis: { ...axis, title: { text: x } }, yaxis: { ...axis, title: { text: y } } };
    Plotly.react(figure, traces.map((trace) => ({ type: "scatter", ...trace })), layout,
      { displayModeBar: false, responsive: true, showSendToCloud: false, plotlyServerURL: "" });
    figure.setAttribute("aria-label", told);
    figure.parentNode.querySelector("figcaption").textContent = caption;
  }
}
