/* The page around laws.js: settings <-> link, figures as SVG, a table, and a summary for screen readers. */
"use strict";
const FRAMES = 161, HEIGHT = 330, MARGIN = { left: 62, right: 14, top: 12, bottom: 40 };
const LABELS = { renormalized: "renormalized (a)", kernel: "kernel ratio r", embedded: "embedded (b)", unnormalized: "unnormalized" };
const form = document.getElementById("settings"), frame = document.getElementById("frame");
const ranges = [...form.querySelectorAll("input[type=range]")];
const view = { turn: 0.5, tilt: 0.35 };
const state = { settings: null, sizes: [], times: [], paths: {}, failures: {} };

const value = (input) => (input.dataset.log ? 10 ** Number(input.value) : Number(input.value));
const short = (x) => (x === 0 ? "0" : Math.abs(x) >= 1e4 || Math.abs(x) < 1e-2 ? x.toExponential(2).replace("e+", "e") : String(Number(x.toPrecision(4))));

function readSettings() {
  const settings = Object.fromEntries(ranges.map((input) => [input.name, value(input)]));
  settings.shown = form.elements.shown.value;
  return settings;
}

/* Class sizes fall geometrically from the largest to the smallest; their mean is N, each at least 2. */
function classSizes({ C, N, imbalance }) {
  const shares = Array.from({ length: C }, (_, i) => imbalance ** (0.5 - i / (C - 1)));
  const total = shares.reduce((a, b) => a + b, 0);
  return shares.map((s) => Math.max(2, Math.round((s * N * C) / total)));
}

function compute() {
  const settings = readSettings(), sizes = classSizes(settings);
  const S0 = laws.start(sizes, Math.round(settings.P), Math.round(settings.seed), settings.u, settings.spread);
  const first = settings.T * 1e-5;
  const times = [0, ...Array.from({ length: FRAMES - 1 }, (_, i) => first * 10 ** ((5 * i) / (FRAMES - 2)))];
  const problem = { sizes, S0, lambda: settings.lambda, r: settings.r };
  const paths = {}, failures = {};
  for (const law of laws.NAMES) {
    try {
      const path = laws.trajectory(law, law === "unnormalized" ? { ...problem, lambda: 0 } : problem, times);
      const measured = path.map((S) => laws.measures(S, sizes, law === "unnormalized" ? 0 : settings.lambda));
      const last = measured.findIndex((m) => !(Math.max(...m.u) < 1e12));
      paths[law] = last < 0 ? measured : measured.slice(0, last);
      if (last >= 0) failures[law] = `from t = ${short(times[last])} on, omega² / C is beyond 1e12`;
    } catch (error) {
      paths[law] = [];
      failures[law] = error.message;
    }
  }
  Object.assign(state, { settings, sizes, times, paths, failures, problem });
}

function element(name, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, x] of Object.entries(attributes)) node.setAttribute(key, x);
  if (text !== undefined) node.textContent = text;
  return node;
}

/* Empties a figure and returns its width: one unit is one pixel of the page, so that letters are as large on a phone. */
function clear(svg, title) {
  const width = Math.max(280, Math.round(svg.getBoundingClientRect().width) || 560);
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  svg.replaceChildren(element("title", { id: `${svg.id}-title` }, title));
  return width;
}

function ticks(low, high) {
  const step = Math.max(1, Math.ceil((high - low) / 5));
  return Array.from({ length: Math.floor((high - low) / step) + 1 }, (_, i) => Math.ceil(low) + i * step).filter((k) => k <= high + 1e-9);
}
const SUPERSCRIPT = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
const power = (k) => "10" + [...String(k)].map((c) => SUPERSCRIPT[c]).join("");

/* Log-log lines: series = [{label, style, points: [[t, y], ...], band: [[t, low, high], ...]}] */
function drawLines(svg, series, title, legendBelow) {
  const WIDTH = clear(svg, title);
  const points = series.flatMap((s) => [...s.points, ...(s.band || []).flatMap(([t, a, b]) => [[t, a], [t, b]])]).filter(([t, y]) => t > 0 && y > 1e-13);
  if (!points.length) return;
  const xs = points.map(([t]) => Math.log10(t)), ys = points.map(([, y]) => Math.log10(y));
  const x0 = Math.min(...xs), x1 = Math.max(...xs), y0 = Math.floor(Math.min(...ys)), y1 = Math.max(y0 + 1, Math.ceil(Math.max(...ys)));
  const X = (t) => MARGIN.left + ((Math.log10(t) - x0) / (x1 - x0)) * (WIDTH - MARGIN.left - MARGIN.right);
  const Y = (y) => HEIGHT - MARGIN.bottom - ((Math.log10(Math.max(y, 1e-13)) - y0) / (y1 - y0)) * (HEIGHT - MARGIN.top - MARGIN.bottom);
  for (const k of ticks(y0, y1)) {
    svg.append(element("line", { class: "grid", x1: MARGIN.left, x2: WIDTH - MARGIN.right, y1: Y(10 ** k), y2: Y(10 ** k) }));
    svg.append(element("text", { x: MARGIN.left - 8, y: Y(10 ** k) + 4, "text-anchor": "end" }, power(k)));
  }
  for (const k of ticks(Math.ceil(x0), x1)) svg.append(element("text", { x: X(10 ** k), y: HEIGHT - MARGIN.bottom + 18, "text-anchor": "middle" }, power(k)));
  svg.append(element("text", { x: WIDTH - MARGIN.right, y: HEIGHT - 4, "text-anchor": "end" }, "time t"));
  svg.append(element("rect", { class: "axis", x: MARGIN.left, y: MARGIN.top, width: WIDTH - MARGIN.left - MARGIN.right, height: HEIGHT - MARGIN.top - MARGIN.bottom }));
  series.forEach((s, i) => {
    const line = (list) => list.filter(([t]) => t > 0).map(([t, y]) => `${X(t).toFixed(1)},${Y(y).toFixed(1)}`);
    if (s.band) {
      const outline = [...line(s.band.map(([t, a]) => [t, a])), ...line(s.band.map(([t, , b]) => [t, b])).reverse()];
      svg.append(element("polygon", { class: `band f${s.style}`, points: outline.join(" ") }));
    }
    svg.append(element("polyline", { class: `curve s${s.style}`, points: line(s.points).join(" ") }));
    const y = legendBelow ? HEIGHT - MARGIN.bottom - 10 - 18 * (series.length - 1 - i) : MARGIN.top + 18 + 18 * i;
    svg.append(element("line", { class: `curve s${s.style}`, x1: MARGIN.left + 10, x2: MARGIN.left + 46, y1: y - 4, y2: y - 4 }));
    svg.append(element("text", { x: MARGIN.left + 52, y }, s.label));
  });
}

/* K x 3 coordinates of the class means: leading directions at the last time, lengths over their mean. */
function space() {
  const path = state.paths[state.settings.shown];
  const svg = document.getElementById("space");
  if (!path.length) return void clear(svg, `No class means: ${state.failures[state.settings.shown]}`);
  const now = Math.min(Number(frame.value), path.length - 1), { means, equinorm, equiangular } = path[now];
  const WIDTH = clear(svg, `Class means of the ${LABELS[state.settings.shown]} law at t = ${short(state.times[now])}: `
    + `lengths differ by ${short(equinorm)} of their mean, cosines by ${short(equiangular)}; in a simplex both are 0`);
  const basis = laws.squaredSingular(path[path.length - 1].means).V;
  const average = means.reduce((s, m) => s + Math.hypot(...m), 0) / means.length;
  const scale = Math.min(118, WIDTH / 4.2);
  const dimensions = Math.min(3, basis.length);
  const [c, s, ct, st] = [Math.cos(view.turn), Math.sin(view.turn), Math.cos(view.tilt), Math.sin(view.tilt)];
  const project = (m) => {
    const p = [0, 1, 2].map((d) => (d < dimensions ? m.reduce((sum, x, k) => sum + x * basis[k][d], 0) / average : 0));
    const x = c * p[0] + s * p[2], z = -s * p[0] + c * p[2];
    return [WIDTH / 2 + scale * x, HEIGHT / 2 - scale * (ct * p[1] - st * z), st * p[1] + ct * z];
  };
  const points = means.map(project);
  for (let i = 0; i < points.length; i++)
    for (let j = 0; j < i; j++) svg.append(element("line", { class: "axis", "stroke-opacity": 0.55, x1: points[i][0], y1: points[i][1], x2: points[j][0], y2: points[j][1] }));
  points.map((p, i) => [...p, i]).sort((a, b) => a[2] - b[2]).forEach(([x, y, depth, i]) => {
    svg.append(element("circle", { class: `f${i % 4}`, cx: x, cy: y, r: 8 + 2 * depth }));
    svg.append(element("text", { x: x + 11, y: y + 4 }, WIDTH < 420 ? `${i + 1}` : `class ${i + 1} (n = ${state.sizes[i]})`));
  });
  document.querySelector('output[data-for="frame"]').textContent = `t = ${short(state.times[now])}`;
}

function draw() {
  const { settings, sizes, times, paths, failures } = state, C = settings.C;
  const omega = (u) => Math.sqrt(C * u); // equal classes: the singular values of Eq. 9
  const geometric = (u) => Math.exp(u.reduce((s, x) => s + Math.log(x), 0) / u.length);
  drawLines(document.getElementById("omega"), laws.NAMES.map((law, i) => ({
    label: LABELS[law], style: i,
    points: paths[law].map((m, k) => [times[k], omega(geometric(m.u))]),
    band: paths[law].map((m, k) => [times[k], omega(Math.min(...m.u)), omega(Math.max(...m.u))]),
  })), "Singular values of the SNR matrix over time, four laws");
  const shown = paths[settings.shown];
  drawLines(document.getElementById("loss"), [["loss", "loss L_LS"], ["lossNC1", "part L_NC1"], ["lossNC23", "part L_NC2/3"]].map(([key, label], i) => ({
    label, style: i, points: shown.map((m, k) => [times[k], m[key]]) })), `Loss and parts of the ${LABELS[settings.shown]} law`, true);
  drawLines(document.getElementById("nc"), [["nc1", "NC1"], ["equinorm", "norms: std / mean"], ["equiangular", "cosines: std"]].map(([key, label], i) => ({
    label, style: i, points: shown.map((m, k) => [times[k], m[key]]) })), `Measures along the ${LABELS[settings.shown]} law`, true);
  space();
  const names = laws.NAMES.filter((law) => paths[law].length);
  const say = names.map((law) => `${LABELS[law]} from ${short(omega(geometric(paths[law][0].u)))} to ${short(omega(geometric(paths[law].at(-1).u)))}`);
  const notes = Object.entries(failures).map(([law, why]) => `The ${LABELS[law]} law is not drawn to the end: ${why}.`);
  if (settings.lambda > 0) notes.push("The unnormalized law is drawn without ridge.");
  document.getElementById("summary").textContent = `Class sizes ${sizes.join(", ")}. Geometric mean of omega: ${say.join("; ")}. ${notes.join(" ")}`;
  const head = ["t", ...names.map((law) => `omega, ${LABELS[law]}`), "loss", "NC1"];
  const body = times.map((t, k) => [t, ...names.map((law) => paths[law][k] && omega(geometric(paths[law][k].u))), shown[k] && shown[k].loss, shown[k] && shown[k].nc1]).filter((_, k) => k % 16 === 0);
  const table = document.getElementById("table");
  table.replaceChildren();
  for (const [row, tag] of [[head, "th"], ...body.map((r) => [r, "td"])]) {
    const line = table.insertRow();
    for (const x of row) {
      const cell = document.createElement(tag);
      if (tag === "th") cell.scope = "col";
      cell.textContent = typeof x === "number" ? x.toPrecision(6) : (x ?? "");
      line.append(cell);
    }
  }
}

function labels() {
  for (const input of ranges) form.querySelector(`output[data-for="${input.name}"]`).textContent = short(value(input));
}
const link = () => new URLSearchParams([...ranges.map((i) => [i.name, i.value]), ["shown", form.elements.shown.value]]).toString();
let cost = 0; // milliseconds of the last update: while a slider moves, a long one waits longer
function update() {
  const began = performance.now();
  labels();
  history.replaceState(null, "", `#${link()}`);
  compute();
  draw();
  cost = performance.now() - began;
}
function readLink() {
  for (const [key, x] of new URLSearchParams(location.hash.slice(1))) {
    const field = form.elements[key];
    if (field && x !== "" && (field.type !== "range" || Number.isFinite(Number(x)))) field.value = x;
  }
  if (!form.elements.shown.value) form.elements.shown.value = "renormalized";
}

let waiting = 0;
form.addEventListener("input", () => { labels(); clearTimeout(waiting); waiting = setTimeout(update, Math.min(500, 60 + cost / 2)); });
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(update, 0));
window.addEventListener("hashchange", () => { readLink(); update(); });
frame.addEventListener("input", () => { stop(); space(); });
let resized = 0;
window.addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(draw, 100); });
const play = document.getElementById("play");
let playing = false;
function stop() {
  playing = false;
  play.textContent = "Play";
}
function step() {
  if (!playing) return;
  frame.value = Number(frame.value) + 1;
  space();
  if (frame.value === frame.max) stop();
  else requestAnimationFrame(step);
}
play.addEventListener("click", () => {
  if (playing) return stop();
  if (frame.value === frame.max) frame.value = 0;
  playing = true;
  play.textContent = "Stop";
  requestAnimationFrame(step);
});
document.getElementById("copy").addEventListener("click", (event) => {
  const button = event.currentTarget, note = (text) => { button.textContent = text; setTimeout(() => (button.textContent = "Copy link to these settings"), 2000); };
  if (navigator.clipboard) navigator.clipboard.writeText(location.href).then(() => note("Copied"), () => note("Copy the address of this page"));
  else note("Copy the address of this page");
});
const svg = document.getElementById("space");
svg.addEventListener("keydown", (event) => {
  const move = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[event.key];
  if (!move) return;
  event.preventDefault();
  view.turn += move[0];
  view.tilt += move[1];
  space();
});
svg.addEventListener("pointermove", (event) => {
  if (event.buttons !== 1) return;
  view.turn += event.movementX / 120;
  view.tilt += event.movementY / 120;
  space();
});
readLink();
update();
