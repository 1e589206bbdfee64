"use strict";
// Draws the curves of the page's data: wheel or drag zooms all charts along the steps,
// pointing shows values, a double click shows everything again.
(() => {
  const data = JSON.parse(document.getElementById("run-data").textContent);
  const HEIGHT = 262, LEFT = 58, RIGHT = 20, TOP = 8, BOTTOM = 36;
  const SVG = "http://www.w3.org/2000/svg";
  // Room at both ends, so that the first and the last points are whole.
  const room = 0.02 * (data.range[1] - data.range[0]) || 1;
  const all = [data.range[0] - room, data.range[1] + room];
  let view = all.slice();
  const charts = [];

  function element(parent, tag, attributes = {}, text = "") {
    const svg = ["svg", "g", "path", "line", "rect", "circle", "text", "clipPath"].includes(tag);
    const made = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text) made.textContent = text;
    parent.append(made);
    return made;
  }

  function show(value, digits = 4) {
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 1e9 || size < 1e-3) return value.toExponential(Math.max(digits - 1, 2)).replace(/\.?0+e/, "e");
    if (size >= 1e4) return Math.round(value).toLocaleString("en-US");
    return String(Number(value.toPrecision(digits)));
  }

  // As many digits as tell ticks apart that are one step from each other.
  function shortTick(value, step) {
    const needed = Math.ceil(Math.log10(Math.abs(value) / step)) + 1 || 4;
    for (const [unit, letter] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]])
      if (Math.abs(value) >= Math.max(unit, 1e4))
        return Number((value / unit).toPrecision(Math.min(Math.max(needed, 6), 15))) + letter;
    return show(value, Math.min(Math.max(needed, 3), 15));
  }

  function ticks(low, high, count) {
    const rough = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough) || power;
    const found = [];
    for (let i = Math.ceil(low / step); i * step <= high * (1 + 1e-12) && found.length < 50; i++) found.push(i * step);
    return found;
  }

  function logTicks(low, high) {
    const found = [];
    const decades = Math.log10(high / low);
    const factors = decades > 2 ? [1] : decades > 0.8 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9];
    const every = Math.max(1, Math.ceil(decades / 7));
    for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++)
      if (e % every === 0) for (const f of factors) {
        const value = f * 10 ** e;
        if (value >= low && value <= high) found.push(value);
      }
    return found;
  }

  // Index of the first step that is not below x.
  function search(steps, x) {
    let low = 0, high = steps.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (steps[middle] < x) low = middle + 1; else high = middle;
    }
    return low;
  }

  function nearest(steps, x) {
    const i = search(steps, x);
    if (i === 0) return 0;
    if (i === steps.length) return i - 1;
    return x - steps[i - 1] < steps[i] - x ? i - 1 : i;
  }

  // Lowest and highest value in view; of a curve without a point there, those beside it.
  // A few spikes of a long raw curve may stick out.
  function span(chart) {
    let low = Infinity, high = -Infinity;
    for (const curve of chart.curves) {
      if (curve.hidden) continue;
      const [a, b] = [search(curve.steps, view[0]), search(curve.steps, view[1] + 1e-9)];
      const beside = a === b ? 1 : 0;
      let seen = curve.values.slice(Math.max(a - beside, 0), b + beside).filter((v) => !chart.log || v > 0);
      if (!seen.length) continue;
      if (curve.raw && seen.length > 100) {
        seen.sort((x, y) => x - y);
        const cut = Math.floor(seen.length / 200);
        seen = [seen[cut], seen[seen.length - 1 - cut]];
      }
      for (const v of seen) { low = Math.min(low, v); high = Math.max(high, v); }
    }
    if (low > high) return chart.log ? [0.1, 1] : [0, 1];
    if (chart.log) {
      const room = Math.max((high / low) ** 0.05, 1.02);
      return [low / room, high * room];
    }
    const room = 0.05 * (high - low) || 0.05 * Math.abs(high) || 1;
    return [low - room, high + room];
  }

  function draw(chart) {
    const width = Math.max(chart.card.clientWidth - 20, 240);
    const svg = chart.svg;
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const [low, high] = span(chart);
    const scale = chart.log ? Math.log : (v) => v;
    const right = width - RIGHT, bottom = HEIGHT - BOTTOM;
    chart.x = (s) => LEFT + (s - view[0]) / (view[1] - view[0]) * (right - LEFT);
    chart.y = (v) => bottom - (scale(v) - scale(low)) / (scale(high) - scale(low)) * (bottom - TOP);
    chart.step = (px) => view[0] + (px - LEFT) / (right - LEFT) * (view[1] - view[0]);
    chart.width = width;
    const clip = element(element(svg, "clipPath", { id: chart.id }), "rect",
      { x: LEFT, y: TOP, width: right - LEFT, height: bottom - TOP });
    clip.parentNode.setAttribute("clipPathUnits", "userSpaceOnUse");
    if (data.switch !== null && data.switch < view[1]) {
      const x = Math.max(chart.x(data.switch), LEFT);
      element(svg, "rect", { x, y: TOP, width: right - x, height: bottom - TOP, fill: "#f1ede4" });
      if (data.switch >= view[0])
        element(svg, "line", { x1: x, x2: x, y1: TOP, y2: bottom, stroke: "#555", "stroke-dasharray": "5 3" });
    }
    let marks = chart.log ? logTicks(low, high) : [];
    if (marks.length < 2) marks = ticks(low, high, 6);
    for (const value of marks) {
      const y = chart.y(value);
      element(svg, "line", { x1: LEFT, x2: right, y1: y, y2: y, stroke: "#e3e6ec" });
      element(svg, "text", { x: LEFT - 5, y: y + 4, "text-anchor": "end" }, shortTick(value, marks[1] - marks[0]));
    }
    const steps = ticks(view[0], view[1], Math.max(4, Math.floor(width / 75)));
    for (const value of steps) {
      const x = chart.x(value);
      element(svg, "line", { x1: x, x2: x, y1: TOP, y2: bottom, stroke: "#e3e6ec" });
      element(svg, "text", { x, y: bottom + 15, "text-anchor": "middle" }, shortTick(value, steps[1] - steps[0]));
    }
    element(svg, "text", { x: (LEFT + right) / 2, y: bottom + 30, "text-anchor": "middle" }, "step");
    element(svg, "rect", { x: LEFT, y: TOP, width: right - LEFT, height: bottom - TOP, fill: "none", stroke: "#9aa1ad" });
    const inside = element(svg, "g", { "clip-path": `url(#${chart.id})` });
    for (const curve of chart.curves) if (!curve.hidden) drawCurve(inside, chart, curve);
    chart.cursor = element(svg, "line", { y1: TOP, y2: bottom, stroke: "#1d2433", "stroke-width": 0.7, visibility: "hidden" });
    chart.brush = element(svg, "rect", { y: TOP, height: bottom - TOP, fill: "#0072b2", opacity: 0.15, visibility: "hidden" });
  }

  function drawCurve(parent, chart, curve) {
    // One point beyond each edge, so that lines run out of the picture.
    const from = Math.max(search(curve.steps, view[0]) - 1, 0);
    const to = Math.min(search(curve.steps, view[1]) + 1, curve.steps.length);
    let path = "", pen = "M";
    const points = [];
    for (let i = from; i < to; i++) {
      const v = curve.values[i];
      if (chart.log && v <= 0) { pen = "M"; continue; }
      points.push([chart.x(curve.steps[i]), chart.y(v)]);
      path += pen + points.at(-1).map((place) => place.toFixed(1)).join(" ");
      pen = "L";
    }
    if (points.length > 1) element(parent, "path", { d: path, fill: "none", stroke: curve.colour,
      "stroke-width": curve.raw ? 0.8 : 1.8, "stroke-opacity": curve.raw ? 0.3 : 1, "stroke-dasharray": curve.dash,
      "stroke-linejoin": "round" });
    if (curve.dots || curve.steps.length === 1) for (const [cx, cy] of points) circle(parent, curve, cx, cy);
  }

  function circle(parent, curve, cx, cy) {
    element(parent, "circle", { cx, cy, r: 3, fill: curve.dots ? "#fff" : curve.colour, stroke: curve.colour });
  }

  function zoom(low, high) {
    const least = (all[1] - all[0]) / 5000;
    if (high - low < least) { const m = (low + high) / 2; low = m - least / 2; high = m + least / 2; }
    const margin = high - low >= all[1] - all[0];
    view = margin ? all.slice() : [low, high];
    if (!margin && view[0] < all[0]) view = [all[0], all[0] + high - low];
    if (!margin && view[1] > all[1]) view = [all[1] - (high - low), all[1]];
    charts.forEach(draw);
  }

  function zoomAbout(centre, factor) {
    zoom(centre - (centre - view[0]) * factor, centre + (view[1] - centre) * factor);
  }

  function point(chart, event) {
    const box = chart.svg.getBoundingClientRect();
    const px = (event.clientX - box.left) * chart.width / box.width;
    return Math.min(Math.max(px, LEFT), chart.width - RIGHT);
  }

  function hover(chart, event) {
    const px = point(chart, event), step = chart.step(px);
    const rows = [];
    let at = null;
    for (const curve of chart.curves) {
      if (curve.raw || curve.hidden || !curve.steps.length) continue;
      const i = nearest(curve.steps, step);
      if (at === null || Math.abs(curve.steps[i] - step) < Math.abs(at - step)) at = curve.steps[i];
      rows.push([curve, curve.steps[i], curve.values[i]]);
    }
    if (at === null) return;
    for (const c of charts) {
      c.cursor.setAttribute("x1", c.x(at));
      c.cursor.setAttribute("x2", c.x(at));
      c.cursor.setAttribute("visibility", at >= view[0] && at <= view[1] ? "visible" : "hidden");
    }
    const box = chart.values;
    box.replaceChildren();
    element(box, "b", {}, "step " + show(at));
    for (const [curve, its, value] of rows) {
      const row = element(box, "div");
      const name = element(row, "span", {}, curve.label + (its === at ? "" : ` (at ${show(its)})`));
      name.style.color = curve.colour;
      element(row, "b", {}, show(value));
    }
    box.hidden = false;
    const area = chart.card.getBoundingClientRect(), x = event.clientX - area.left;
    box.style.top = chart.svg.getBoundingClientRect().top - area.top + 14 + "px";
    box.style.left = (x > area.width / 2 ? Math.max(x - box.offsetWidth - 14, 4) : x + 14) + "px";
  }

  function leave() {
    for (const chart of charts) { chart.values.hidden = true; chart.cursor.setAttribute("visibility", "hidden"); }
  }

  function listen(chart) {
    const svg = chart.svg;
    let start = null;
    svg.addEventListener("wheel", (event) => {
      const out = event.deltaY > 0;
      // Showing everything, the wheel scrolls the page on.
      if (out && view[1] - view[0] >= all[1] - all[0]) return;
      event.preventDefault();
      zoomAbout(chart.step(point(chart, event)), out ? 1.25 : 0.8);
    }, { passive: false });
    svg.addEventListener("pointerdown", (event) => {
      if (event.button === 0) { start = point(chart, event); svg.setPointerCapture(event.pointerId); }
    });
    svg.addEventListener("pointermove", (event) => {
      hover(chart, event);
      if (start === null) return;
      const px = point(chart, event);
      chart.brush.setAttribute("x", Math.min(start, px));
      chart.brush.setAttribute("width", Math.abs(px - start));
      chart.brush.setAttribute("visibility", "visible");
    });
    svg.addEventListener("pointerup", (event) => {
      const px = point(chart, event), from = start;
      start = null;
      chart.brush.setAttribute("visibility", "hidden");
      if (from !== null && Math.abs(px - from) > 6) zoom(chart.step(Math.min(px, from)), chart.step(Math.max(px, from)));
    });
    svg.addEventListener("pointercancel", () => { start = null; chart.brush.setAttribute("visibility", "hidden"); leave(); });
    svg.addEventListener("pointerleave", leave);
    svg.addEventListener("dblclick", () => zoom(...all));
  }

  function tool(parent, text, title, act) {
    const button = element(parent, "button", { type: "button", class: "tool", title, "aria-label": title }, text);
    button.addEventListener("click", () => act(button));
    return button;
  }

  function build(spec, number) {
    const card = element(document.getElementById("charts"), "section", { class: "card chart" });
    const header = element(card, "header");
    element(header, "h3", {}, spec.title);
    const chart = { id: `inside${number}`, card, log: spec.log, curves: spec.curves };
    const tools = element(header, "span", { class: "tools" });
    const positive = spec.curves.some((c) => c.values.some((v) => v > 0));
    if (positive) {
      const log = tool(tools, "log", "Logarithmic scale on or off", () => {
        chart.log = !chart.log;
        log.setAttribute("aria-pressed", chart.log);
        draw(chart);
      });
      log.setAttribute("aria-pressed", chart.log);
    }
    tool(tools, "−", "Zoom out", () => zoomAbout((view[0] + view[1]) / 2, 2));
    tool(tools, "+", "Zoom in", () => zoomAbout((view[0] + view[1]) / 2, 0.5));
    tool(tools, "all", "Show all steps", () => zoom(...all));
    chart.svg = element(card, "svg", { role: "img", "aria-label": `${spec.title}, over the steps` });
    chart.values = element(card, "div", { class: "values" });
    chart.values.hidden = true;
    const legend = element(card, "div", { class: "legend" });
    for (const curve of spec.curves) {
      if (curve.raw) continue;
      const button = element(legend, "button", { type: "button", "aria-pressed": "true", title: "Show or hide" });
      const sample = element(button, "svg", { width: 22, height: 8, viewBox: "0 0 22 8", style: "width:22px;height:8px;cursor:inherit" });
      element(sample, "line", { x1: 0, x2: 22, y1: 4, y2: 4, stroke: curve.colour, "stroke-width": 2, "stroke-dasharray": curve.dash });
      if (curve.dots) circle(sample, curve, 11, 4);
      element(button, "span", {}, curve.label);
      button.addEventListener("click", () => {
        for (const c of spec.curves) if (c.label === curve.label) c.hidden = !c.hidden;
        button.setAttribute("aria-pressed", String(!curve.hidden));
        draw(chart);
      });
    }
    charts.push(chart);
    listen(chart);
  }

  data.charts.forEach(build);
  charts.forEach(draw);
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth !== width) { width = window.innerWidth; charts.forEach(draw); }
  });
})();
