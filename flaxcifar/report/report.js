"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const colours = ["var(--one)", "var(--two)", "#7d5fc7", "#2f9e8f", "#b5497d", "#8a7a1f"];

function element(name, attributes, parent) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  parent.append(node);
  return node;
}

function html(name, parent, text = "", className = "") {
  const node = document.createElement(name);
  node.textContent = text;
  node.className = className;
  parent.append(node);
  return node;
}

/* Four significant digits, without an exponent where that is short. */
function words(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) return value.toExponential(1);
  return String(Number(value.toPrecision(4)));
}

/* About `count` round numbers from `low` to `high`. */
function ticks(low, high, count) {
  const raw = (high - low || 1) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((n) => n * power >= raw);
  const found = [];
  for (let x = Math.ceil(low / step) * step; x <= high + step * 1e-9; x += step) found.push(x);
  return found;
}

/* lines: [{name, dashed, colour, points: [[x, y], ...]}] */
function lineChart(figure, lines, { percent = false } = {}) {
  const width = 560, height = 260, left = 52, right = 10, top = 8, bottom = 32;
  const all = lines.flatMap((line) => line.points);
  if (!all.length) return;
  const xs = all.map((p) => p[0]), ys = all.map((p) => p[1]);
  const x0 = Math.min(...xs), x1 = Math.max(...xs);
  let y0 = Math.min(...ys), y1 = Math.max(...ys);
  const margin = (y1 - y0 || Math.abs(y1) || 1) * 0.06;
  [y0, y1] = [y0 >= 0 ? Math.max(0, y0 - margin) : y0 - margin, y1 + margin];
  const px = (x) => left + ((x - x0) / (x1 - x0 || 1)) * (width - left - right);
  const py = (y) => height - bottom - ((y - y0) / (y1 - y0)) * (height - top - bottom);
  const show = (y) => (percent ? `${(100 * y).toFixed(2)} %` : words(y));
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" }, figure);
  svg.setAttribute("aria-label", figure.querySelector("figcaption").textContent);
  for (const y of ticks(y0, y1, 5)) {
    element("line", { x1: left, x2: width - right, y1: py(y), y2: py(y), class: "grid" }, svg);
    const text = element("text", { x: left - 6, y: py(y) + 4, "text-anchor": "end" }, svg);
    text.textContent = percent ? `${Math.round(1000 * y) / 10} %` : words(y);
  }
  for (const x of ticks(x0, x1, 6).filter(Number.isInteger)) {
    const text = element("text", { x: px(x), y: height - 12, "text-anchor": "middle" }, svg);
    text.textContent = x;
  }
  for (const line of lines) {
    const style = { fill: "none", stroke: line.colour, "stroke-width": 2, "stroke-linejoin": "round" };
    if (line.dashed) style["stroke-dasharray"] = "6 4";
    const points = line.points.map((p) => `${px(p[0])},${py(p[1])}`).join(" ");
    element("polyline", { ...style, points }, svg);
    if (line.points.length === 1) {
      element("circle", { cx: px(line.points[0][0]), cy: py(line.points[0][1]), r: 3.5, fill: line.colour }, svg);
    }
  }
  if (lines.length > 1) {
    const legend = html("ul", figure, "", "legend");
    for (const line of lines) {
      const item = html("li", legend);
      const mark = html("i", item, "", line.dashed ? "dashed" : "");
      mark.style.borderColor = line.colour;
      item.append(line.name);
    }
  }
  const readout = html("div", figure, "", "readout");
  const cursor = element("line", { y1: top, y2: height - bottom, class: "grid", visibility: "hidden" }, svg);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * width;
    const nearest = xs.reduce((a, b) => (Math.abs(px(b) - at) < Math.abs(px(a) - at) ? b : a));
    cursor.setAttribute("x1", px(nearest));
    cursor.setAttribute("x2", px(nearest));
    cursor.setAttribute("visibility", "visible");
    const found = lines.flatMap((line) =>
      line.points.filter((p) => p[0] === nearest).map((p) => `${lines.length > 1 ? line.name + " " : ""}${show(p[1])}`));
    readout.textContent = `epoch ${nearest}: ${found.join(", ")}`;
  });
}

/* A curve of each run for each of the row's keys: the second key of a run is dashed. */
function drawCurves() {
  for (const figure of document.querySelectorAll("figure[data-curve]")) {
    const lines = [];
    data.runs.forEach((run, number) => {
      figure.dataset.curve.split(" ").forEach((key, place, keys) => {
        const points = run.rows.filter((row) => row[key] != null).map((row) => [row.epoch, row[key]]);
        if (!points.length) return;
        const single = data.runs.length === 1;
        const kind = keys.length > 1 ? key.split("_")[0] : "";
        lines.push({
          name: [single ? "" : run.name, kind].filter(Boolean).join(" "),
          colour: colours[(single ? place : number) % colours.length],
          dashed: !single && keys.length > 1 && place === 0,
          points,
        });
      });
    });
    if (lines.length) lineChart(figure, lines, { percent: figure.dataset.unit === "percent" });
    else figure.remove();
  }
}

/* The confusion matrix on a canvas: a square for each pair, darker with the share of its row. */
function drawConfusion(canvas) {
  const { matrix, names, superclasses, order } = data.confusion;
  const count = names.length;
  const readout = document.getElementById("confusion-readout");
  const select = document.getElementById("confusion-order");
  const named = count <= 20; // else there is no room: pointing at a square names it
  const margin = named ? 220 : 0;
  const cell = Math.max(1, Math.floor((1320 - margin) / count));
  canvas.width = canvas.height = margin + cell * count;
  const context = canvas.getContext("2d");
  const totals = matrix.map((row) => row.reduce((a, b) => a + b, 0) || 1);
  let chosen = order.label, marked = null;

  function draw() {
    const heat = getComputedStyle(document.documentElement).getPropertyValue("--heat").trim();
    const line = getComputedStyle(document.documentElement).getPropertyValue("--line").trim();
    const text = getComputedStyle(document.documentElement).getPropertyValue("--text").trim();
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.translate(margin, margin);
    if (named) {
      context.fillStyle = text;
      context.font = "26px system-ui, sans-serif";
      context.textBaseline = "middle";
      chosen.forEach((label, n) => {
        context.textAlign = "right";
        context.fillText(names[label], -12, (n + 0.5) * cell, margin - 16);
        context.save();
        context.translate((n + 0.5) * cell, -12);
        context.rotate(-Math.PI / 2);
        context.textAlign = "left";
        context.fillText(names[label], 0, 0, margin - 16);
        context.restore();
      });
    }
    chosen.forEach((label, y) => chosen.forEach((prediction, x) => {
      const share = matrix[label][prediction] / totals[label];
      if (!share) return;
      // The root: a class is mostly right, and what else there is should be seen, too.
      context.fillStyle = `rgb(${heat} / ${Math.sqrt(share).toFixed(3)})`;
      context.fillRect(x * cell, y * cell, cell, cell);
      if (named) {
        const dark = matchMedia("(prefers-color-scheme: dark)").matches;
        context.fillStyle = share > 0.25 ? (dark ? "#000" : "#fff") : dark ? "#fff" : "#000";
        context.font = `${Math.min(cell * 0.3, 34)}px system-ui, sans-serif`;
        context.textAlign = "center";
        context.textBaseline = "middle";
        context.fillText(matrix[label][prediction], (x + 0.5) * cell, (y + 0.5) * cell);
      }
    }));
    if (select.value === "superclass") {
      context.strokeStyle = line;
      context.lineWidth = 2;
      chosen.forEach((label, n) => {
        if (n && superclasses[label] !== superclasses[chosen[n - 1]]) {
          for (const [a, b, c, d] of [[0, n, count, n], [n, 0, n, count]]) {
            context.beginPath();
            context.moveTo(a * cell, b * cell);
            context.lineTo(c * cell, d * cell);
            context.stroke();
          }
        }
      });
    }
    if (marked) {
      context.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--two");
      context.lineWidth = Math.max(2, cell / 8);
      context.strokeRect(0, marked[1] * cell, count * cell, cell);
      context.strokeRect(marked[0] * cell, 0, cell, count * cell);
    }
  }

  function point(event) {
    const box = canvas.getBoundingClientRect();
    const scale = canvas.width / box.width;
    const x = Math.floor(((event.clientX - box.left) * scale - margin) / cell);
    const y = Math.floor(((event.clientY - box.top) * scale - margin) / cell);
    if (x < 0 || y < 0 || x >= count || y >= count) return;
    const label = chosen[y], prediction = chosen[x];
    const group = superclasses ? ` (${superclasses[label]})` : "";
    readout.textContent = `${names[label]}${group} taken for ${names[prediction]}: ` +
      `${matrix[label][prediction]} of ${totals[label]}`;
    marked = [x, y];
    draw();
  }

  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerdown", point);
  canvas.addEventListener("pointerleave", () => { marked = null; draw(); });
  select.addEventListener("change", () => { chosen = order[select.value]; draw(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
}

/* Bars of each bin's accuracy beside the diagonal that a calibrated network has. */
function drawCalibration(figure) {
  const { counts, confidence, accuracy } = data.calibration;
  const size = 300, left = 44, bottom = 36, top = 6, width = 400;
  const svg = element("svg", { viewBox: `0 0 ${width} ${size}`, role: "img" }, figure);
  svg.setAttribute("aria-label", "Accuracy by confidence");
  const px = (x) => left + x * (width - left - 8), py = (y) => size - bottom - y * (size - bottom - top);
  for (const tick of [0, 0.25, 0.5, 0.75, 1]) {
    element("line", { x1: px(0), x2: px(1), y1: py(tick), y2: py(tick), class: "grid" }, svg);
    element("text", { x: left - 6, y: py(tick) + 4, "text-anchor": "end" }, svg).textContent = `${100 * tick} %`;
    element("text", { x: px(tick), y: size - 20, "text-anchor": "middle" }, svg).textContent = `${100 * tick} %`;
  }
  const readout = html("div", figure, "", "readout");
  counts.forEach((count, n) => {
    if (!count) return;
    const bin = 1 / counts.length;
    const bar = element("rect", {
      x: px(n * bin) + 1, width: px(bin) - px(0) - 2, y: py(accuracy[n]), height: py(0) - py(accuracy[n]),
      fill: "var(--one)", "fill-opacity": 0.75,
    }, svg);
    element("circle", { cx: px(confidence[n]), cy: py(accuracy[n]), r: 3, fill: "var(--two)" }, svg);
    bar.addEventListener("pointerenter", () => {
      readout.textContent = `${count} images with ${(100 * confidence[n]).toFixed(1)} % confidence on average: ` +
        `${(100 * accuracy[n]).toFixed(1)} % right`;
    });
  });
  element("line", { x1: px(0), y1: py(0), x2: px(1), y2: py(1), stroke: "var(--two)", "stroke-width": 2, "stroke-dasharray": "6 4" }, svg);
  element("text", { x: px(0.5), y: size - 3, "text-anchor": "middle" }, svg).textContent = "confidence";
}

/* A click on a heading sorts its table by that column, again the other way round. */
function makeSortable(table) {
  const body = table.tBodies[0];
  table.querySelectorAll("thead th button").forEach((button) => button.addEventListener("click", () => {
    const heading = button.parentElement;
    const down = heading.getAttribute("aria-sort") === "ascending";
    table.querySelectorAll("thead th").forEach((th) => th.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const cell = (row) => row.cells[heading.cellIndex];
    const rows = [...body.rows].sort((a, b) => "value" in cell(a).dataset
      ? Number(cell(a).dataset.value) - Number(cell(b).dataset.value)
      : cell(a).textContent.localeCompare(cell(b).textContent));
    body.append(...(down ? rows.reverse() : rows));
  }));
}

drawCurves();
document.querySelectorAll("table.sortable").forEach(makeSortable);
if (data.confusion) drawConfusion(document.getElementById("confusion"));
if (data.calibration) drawCalibration(document.getElementById("calibration"));
