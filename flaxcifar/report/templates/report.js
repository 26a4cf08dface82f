"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const pageStyle = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const drawings = []; // redraw functions, called when the colours or the width change

/* The colour of a line. After the first six, hues are spread around the colour circle. */
function colour(number) {
  const some = ["var(--one)", "var(--two)", "#7d5fc7", "#2f9e8f", "#b5497d", "#8a7a1f"];
  return some[number] ?? `hsl(${Math.round(number * 137.5) % 360} 55% 50%)`;
}

/* Calls draw(width) now, and again when the width of `box` or the colours change. */
function drawn(box, draw) {
  const again = () => box.clientWidth && draw(box.clientWidth);
  let last = box.clientWidth;
  new ResizeObserver(() => {
    if (box.clientWidth !== last) again();
    last = box.clientWidth;
  }).observe(box);
  drawings.push(again);
  again();
}

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

/* Three or four significant digits; an exponent only for very large or small numbers. */
function words(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) return Number(value.toPrecision(3)).toExponential();
  return String(Number(value.toPrecision(4)));
}

/* About `count` round numbers from `low` to `high`. */
function ticks(low, high, count) {
  const raw = (high - low || 1) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 2.5, 5, 10].find((n) => n * power >= raw * 0.999);
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) found.push(n * step);
  return found;
}

/* Draws lines [{name, dashed, colour, points: [[epoch, y], ...]}] with axes, legend and readout. */
function lineChart(figure, lines, unit) {
  const percent = unit === "percent";
  const xs = [...new Set(lines.flatMap((line) => line.points.map((p) => p[0])))].sort((a, b) => a - b);
  const ys = lines.flatMap((line) => line.points.map((p) => p[1]));
  const height = 264, left = 52, right = 12, top = 8, bottom = 40;
  const x0 = xs[0], x1 = xs.at(-1);
  let y0 = Math.min(...ys), y1 = Math.max(...ys);
  const margin = (y1 - y0 || Math.abs(y1) || 1) * 0.06;
  y0 = unit === "rate" ? 0 : y0 >= 0 ? Math.max(0, y0 - margin) : y0 - margin;
  y1 += margin;
  const show = (y) => (percent ? `${(100 * y).toFixed(2)}\u00a0%` : words(y));
  const svg = element("svg", { role: "img" }, figure);
  svg.setAttribute("aria-label", `${figure.querySelector("figcaption").textContent} by epoch`);
  let px, width;

  function draw(space) {
    width = space;
    px = (x) => left + (x1 > x0 ? (x - x0) / (x1 - x0) : 0.5) * (width - left - right);
    const py = (y) => height - bottom - ((y - y0) / (y1 - y0)) * (height - top - bottom);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren();
    for (const y of ticks(y0, y1, 6)) {
      element("line", { x1: left, x2: width - right, y1: py(y), y2: py(y), class: "grid" }, svg);
      const text = element("text", { x: left - 6, y: py(y) + 4, "text-anchor": "end" }, svg);
      text.textContent = percent ? `${words(100 * y)} %` : words(y);
    }
    for (const x of ticks(x0, x1, width / 70).filter(Number.isInteger)) {
      const text = element("text", { x: px(x), y: height - 22, "text-anchor": "middle" }, svg);
      text.textContent = x;
    }
    const middle = { x: (left + width - right) / 2, y: height - 5, "text-anchor": "middle" };
    element("text", middle, svg).textContent = "epoch";
    element("line", { y1: top, y2: height - bottom, class: "cursor", visibility: "hidden" }, svg);
    for (const line of lines) {
      const style = { fill: "none", stroke: line.colour, "stroke-width": 2, "stroke-linejoin": "round" };
      if (line.dashed) style["stroke-dasharray"] = "6 4";
      element("polyline", { ...style, points: line.points.map(([x, y]) => `${px(x)},${py(y)}`).join(" ") }, svg);
      if (line.points.length > 30) continue;
      for (const [x, y] of line.points) element("circle", { cx: px(x), cy: py(y), r: 3, fill: line.colour }, svg);
    }
  }

  if (lines.length > 1) {
    const legend = html("ul", figure, "", "legend");
    for (const line of lines) {
      const item = html("li", legend);
      html("i", item, "", line.dashed ? "dashed" : "").style.borderColor = line.colour;
      item.append(line.name);
    }
  }
  const readout = html("div", figure, "", "readout");
  function read(epoch) {
    const found = lines.flatMap((line) => line.points.filter((p) => p[0] === epoch)
      .map((p) => `${lines.length > 1 ? line.name + " " : ""}${show(p[1])}`));
    readout.textContent = `epoch ${epoch}: ${found.join(", ")}`;
  }
  svg.addEventListener("pointermove", (event) => {
    const at = event.clientX - svg.getBoundingClientRect().left;
    const nearest = xs.reduce((a, b) => (Math.abs(px(b) - at) < Math.abs(px(a) - at) ? b : a));
    const cursor = svg.querySelector(".cursor");
    cursor.setAttribute("x1", px(nearest));
    cursor.setAttribute("x2", px(nearest));
    cursor.setAttribute("visibility", "visible");
    read(nearest);
  });
  drawn(figure, draw);
  read(x1);
}

/* Draws a curve for each run and key. Colours tell the keys of one run, or else the runs, apart;
   the training curves of several runs are dashed. */
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
          colour: colour(single ? place : number),
          dashed: !single && keys.length > 1 && place === 0,
          points,
        });
      });
    });
    if (lines.length) lineChart(figure, lines, figure.dataset.unit);
    else figure.remove();
  }
}

/* The text, shortened to at most `most` pixels on the canvas. */
function shortened(context, text, most) {
  if (context.measureText(text).width <= most) return text;
  let length = text.length;
  while (length > 1 && context.measureText(text.slice(0, length) + "\u2026").width > most) length--;
  return text.slice(0, length).trimEnd() + "\u2026";
}

/* The size of the confusion matrix: `margin` holds the names, `cell` is the side of a square. */
function confusionLayout(space, count, larger) {
  const few = count <= 20, smallest = 8; // a smaller square leaves no room for its name
  const room = Math.min(few ? 110 : 170, space * 0.28);
  const fits = (space - room) / count >= smallest;
  const margin = fits ? room : larger ? 170 : 0;
  const width = fits || !larger ? Math.min(space, few ? 720 : 1100) : margin + 12 * count;
  return { fits, margin, width, cell: (width - margin) / count };
}

const canvasFont = (size) => `${size}px system-ui, sans-serif`;

/* The names of the classes, left of the rows and above the columns. */
function drawNames(context, names, { margin, cell }) {
  context.fillStyle = pageStyle("--text");
  context.font = canvasFont(Math.min(12, cell * 0.95));
  names.forEach((name, n) => {
    const short = shortened(context, name, margin - 8);
    context.textAlign = "right";
    context.fillText(short, -6, (n + 0.5) * cell);
    context.save();
    context.translate((n + 0.5) * cell, -6);
    context.rotate(-Math.PI / 2);
    context.textAlign = "left";
    context.fillText(short, 0, 0);
    context.restore();
  });
}

/* The squares, and their counts if there is room. */
function drawSquares(context, rows, cell) {
  const heat = pageStyle("--heat"), text = pageStyle("--text"), back = pageStyle("--back");
  const flip = Number(pageStyle("--flip"));
  const digits = String(Math.max(...rows.flat())).length;
  const size = Math.min(13, (cell - 2) / (0.6 * digits));
  context.font = canvasFont(size);
  context.textAlign = "center";
  rows.forEach((row, y) => {
    const total = row.reduce((a, b) => a + b, 0);
    row.forEach((count, x) => {
      if (!count) return;
      // The root keeps mistakes visible: most of a row is on the diagonal.
      const depth = Math.sqrt(count / total);
      context.fillStyle = `rgb(${heat} / ${depth.toFixed(3)})`;
      context.fillRect(x * cell, y * cell, cell, cell);
      if (size < 7) return;
      context.fillStyle = depth > flip ? back : text;
      context.fillText(count, (x + 0.5) * cell, (y + 0.5) * cell);
    });
  });
}

/* The frame, and lines between superclasses: `groups` has the superclass of each row. */
function drawFrame(context, groups, count, cell) {
  const size = count * cell;
  context.strokeStyle = pageStyle("--line");
  context.lineWidth = 1;
  context.strokeRect(0, 0, size, size);
  context.beginPath();
  groups.forEach((group, n) => {
    if (!n || group === groups[n - 1]) return;
    context.moveTo(0, n * cell);
    context.lineTo(size, n * cell);
    context.moveTo(n * cell, 0);
    context.lineTo(n * cell, size);
  });
  context.stroke();
}

/* The confusion matrix: the colour of a square shows its share of the row. Pointing at a square
   writes its count below. */
function drawConfusion(canvas) {
  const { matrix, names, superclasses, order } = data.confusion;
  const box = canvas.parentElement, count = names.length, context = canvas.getContext("2d");
  const readout = document.getElementById("confusion-readout");
  const select = document.getElementById("confusion-order");
  const zoom = document.getElementById("confusion-zoom");
  let chosen = order.label, marked = null, larger = false, layout;

  function draw(space) {
    layout = confusionLayout(space, count, larger);
    const { fits, margin, width, cell } = layout;
    zoom.hidden = fits;
    zoom.textContent = larger ? "Smaller" : "Larger";
    const dense = devicePixelRatio || 1;
    canvas.style.width = canvas.style.height = `${width}px`;
    canvas.width = canvas.height = Math.round(width * dense);
    context.setTransform(dense, 0, 0, dense, 0, 0);
    context.textBaseline = "middle";
    context.translate(margin, margin);
    if (margin) drawNames(context, chosen.map((label) => names[label]), layout);
    drawSquares(context, chosen.map((label) => chosen.map((other) => matrix[label][other])), cell);
    const grouped = select.value === "superclass";
    drawFrame(context, grouped ? chosen.map((label) => superclasses[label]) : [], count, cell);
    if (!marked) return;
    context.strokeStyle = pageStyle("--two");
    context.lineWidth = Math.max(1, cell / 12);
    context.strokeRect(0, marked[1] * cell, count * cell, cell);
    context.strokeRect(marked[0] * cell, 0, cell, count * cell);
  }

  const again = () => draw(box.clientWidth);

  function point(event) {
    const corner = canvas.getBoundingClientRect();
    const x = Math.floor((event.clientX - corner.left - layout.margin) / layout.cell);
    const y = Math.floor((event.clientY - corner.top - layout.margin) / layout.cell);
    if (x < 0 || y < 0 || x >= count || y >= count) return;
    const label = chosen[y], prediction = chosen[x];
    const group = superclasses ? ` (${superclasses[label]})` : "";
    const total = matrix[label].reduce((a, b) => a + b, 0);
    readout.textContent = `${names[label]}${group} predicted as ${names[prediction]}: ` +
      `${matrix[label][prediction]} of ${total} images`;
    marked = [x, y];
    again();
  }

  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerdown", point);
  canvas.addEventListener("pointerleave", () => { marked = null; again(); });
  select.addEventListener("change", () => { chosen = order[select.value]; marked = null; again(); });
  zoom.addEventListener("click", () => { larger = !larger; again(); });
  drawn(box, draw);
}

/* Reliability diagram: the accuracy of each bin. A calibrated network follows the diagonal. */
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
      readout.textContent = `${count} images: mean confidence ${(100 * confidence[n]).toFixed(1)} %, ` +
        `accuracy ${(100 * accuracy[n]).toFixed(1)} %`;
    });
  });
  element("line", { x1: px(0), y1: py(0), x2: px(1), y2: py(1), stroke: "var(--two)", "stroke-width": 2, "stroke-dasharray": "6 4" }, svg);
  element("text", { x: px(0.5), y: size - 3, "text-anchor": "middle" }, svg).textContent = "confidence";
}

/* A click on a heading sorts the table by that column, a second click reverses it. */
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

/* Print in light colours, with every part unfolded. */
addEventListener("beforeprint", () => {
  document.documentElement.classList.add("printing");
  document.querySelectorAll("details").forEach((part) => { part.open = true; });
  drawings.forEach((draw) => draw());
});
addEventListener("afterprint", () => {
  document.documentElement.classList.remove("printing");
  drawings.forEach((draw) => draw());
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawings.forEach((draw) => draw()));

drawCurves();
document.querySelectorAll("table.sortable").forEach(makeSortable);
if (data.confusion) drawConfusion(document.getElementById("confusion-matrix"));
if (data.calibration) drawCalibration(document.getElementById("reliability"));
