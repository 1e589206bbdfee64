"use strict";
// Draws the curves into the page's charts. All zoom together along the steps; the
// legends hold the values at the step that is pointed at, else the last ones.
const data = JSON.parse(document.getElementById("run-data").textContent);
const section = document.getElementById("charts");
const charts = [...section.querySelectorAll(".chart")].map((card, i) => ({ card, curves: data.charts[i] }));
const [first, last] = data.range, room = 0.02 * (last - first) || 1; // so that both ends are whole
const all = [first - room, last + room];
let view = all, start = null; // the steps that are shown; where a drag began
const share = (step) => (step - view[0]) / (view[1] - view[0]);

function show(value, digits = 4) {
  const size = Math.abs(value);
  if (size && (size < 1e-3 || size >= 1e9)) return value.toExponential(Math.max(digits - 1, 2)).replace(/\.?0+e/, "e");
  return value.toLocaleString("en", { maximumSignificantDigits: size < 1e4 ? digits : Math.max(digits, 9) });
}

function ticks(low, high, count) {
  const power = 10 ** Math.floor(Math.log10((high - low) / count));
  const step = power * [1, 2, 5, 10].find((m) => m * power * count >= high - low), from = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - from + 1 }, (_, i) => (from + i) * step);
}

function logTicks(low, high, count) {
  const decades = Math.log10(high / low), every = Math.ceil(decades / count), from = Math.floor(Math.log10(low));
  const powers = Array.from({ length: decades + 2 }, (_, i) => from + i).filter((e) => e % every === 0);
  const found = powers.flatMap((e) => (decades > 2 ? [1] : [1, 2, 5]).map((m) => m * 10 ** e)).filter((v) => v >= low && v <= high);
  return found.length > 1 ? found : ticks(low, high, count);
}

// What the height of a chart spans: values in view, or beside it; a few spikes of a
// long curve as it was logged may stick out.
function range(lines, log) {
  const inside = lines.flatMap(({ steps, values, raw }) => {
    const found = values.filter((v, i) => (!log || v > 0)
      && (steps[i + 1] ?? steps[i]) >= view[0] && (steps[i - 1] ?? steps[i]) <= view[1]);
    const cut = raw === undefined ? Math.floor(found.length / 200) : 0;
    return found.sort((a, b) => a - b).slice(cut, found.length - cut);
  });
  if (!inside.length) return [0.1, 1];
  const low = Math.min(...inside), high = Math.max(...inside);
  const gap = log ? Math.max((high / low) ** 0.05, 1.02) : 0.05 * (high - low || Math.abs(high)) || 1;
  return log ? [low / gap, high * gap] : [low - gap, high + gap];
}

function tick(kind, at, value, step) {
  const mark = document.createElement("i"), digits = Math.ceil(Math.log10(Math.abs(value) / step)) + 1;
  mark.className = kind;
  mark.style.setProperty("--place", `${100 * at}%`);
  mark.dataset.value = show(value, Math.max(digits || 0, 3)); // digits that tell two ticks apart
  return mark;
}

function draw({ card, curves }) {
  const log = card.querySelector(".log").checked, scale = log ? Math.log : (v) => v;
  const plot = card.querySelector(".plot"), [late, ...groups] = plot.querySelectorAll("svg > *");
  const on = [...card.querySelectorAll(".legend input")].map((box) => box.checked);
  const [low, high] = range(curves.filter((_, i) => on[i]).flatMap((curve) => curve.raw ? [curve, curve.raw] : [curve]), log);
  const height = (v) => (scale(v) - scale(low)) / (scale(high) - scale(low));
  groups.forEach((group, i) => {
    for (const path of group.children) {
      const { steps, values } = path.matches(".raw") ? curves[i].raw : curves[i];
      const places = steps.map((s, j) => [1000 * share(s), 1000 - 1000 * height(values[j])]).filter((p) => on[i] && isFinite(p[1]));
      path.setAttribute("d", places.map(([x, y], j) => path.matches(".dots") ? `M${x} ${y}h.01` : `${j ? "L" : "M"}${x} ${y}`).join(""));
    }
  });
  late.setAttribute("x", 1000 * Math.min(Math.max(share(data.switch ?? Infinity), 0), 1));
  const levels = (log ? logTicks : ticks)(low, high, 6), steps = ticks(...view, Math.max(plot.clientWidth / 60, 2));
  plot.replaceChildren(...levels.map((v) => tick("y", height(v), v, levels[1] - levels[0])),
    ...steps.map((s) => tick("x", share(s), s, steps[1] - steps[0])), plot.lastChild);
}

function read(pointed) {
  const step = Math.min(Math.max(pointed, first), last);
  for (const { card, curves } of charts) card.querySelectorAll("output").forEach((output, i) => {
    const { steps, values } = curves[i];
    const at = steps.reduce((best, s, j) => Math.abs(s - step) < Math.abs(steps[best] - step) ? j : best, 0);
    const apart = Math.abs(steps[at] - step) > 0.01 * (view[1] - view[0]);
    output.textContent = show(values[at]) + (apart ? ` at ${show(steps[at])}` : "");
  });
  document.getElementById("step").textContent = show(Math.round(step));
  for (const [name, place] of [["--at", step], ["--from", start ?? step]])
    section.style.setProperty(name, `${100 * Math.min(Math.max(share(place), 0), 1)}%`);
}

function zoom(low, high) {
  const width = Math.max(high - low, (all[1] - all[0]) / 5000), from = Math.max((low + high - width) / 2, all[0]);
  view = width < all[1] - all[0] ? [Math.min(from, all[1] - width), Math.min(from + width, all[1])] : all;
  charts.forEach(draw);
  read(last);
}

for (const { card } of charts) {
  const plot = card.querySelector(".plot");
  const stepAt = (event) => view[0] + (view[1] - view[0]) * (event.clientX - plot.getBoundingClientRect().left) / plot.clientWidth;
  plot.onpointerdown = (event) => { start = stepAt(event); plot.setPointerCapture(event.pointerId); };
  plot.onpointermove = (event) => read(stepAt(event));
  plot.onpointerup = (event) => {
    const ends = [start, stepAt(event)].sort((a, b) => a - b);
    start = null;
    if (share(ends[1]) - share(ends[0]) > 0.02) zoom(...ends);
    read(stepAt(event));
  };
  plot.onpointerleave = plot.onpointercancel = () => { start = null; read(last); };
  plot.ondblclick = () => zoom(...all);
  plot.onwheel = (event) => {
    const at = stepAt(event), factor = event.deltaY > 0 ? 1.25 : 0.8;
    if (factor > 1 && view === all) return; // the page scrolls on
    event.preventDefault();
    zoom(at - (at - view[0]) * factor, at + (view[1] - at) * factor);
  };
}
document.getElementById("search").oninput = ({ target }) => {
  for (const row of document.querySelectorAll(".sections tr")) {
    const field = `${row.closest(".card").querySelector("h3").textContent}.${row.textContent}`.toLowerCase();
    row.hidden = !field.includes(target.value.toLowerCase());
  }
};
document.getElementById("all").onclick = () => zoom(...all);
section.onchange = () => charts.forEach(draw);
charts.forEach(draw);
read(last);
