import { figure, visible } from "./model.js";
import { ramp, scale } from "./colors.js";

// Plots as SVG elements. Every mark has a title, and can be reached and pressed by keyboard.

/** An element; text goes in as text, never as markup. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  for (const child of children.flat(Infinity)) if (child !== null && child !== undefined) made.append(child);
  return made;
}

function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value);
  }
  made.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined));
  return made;
}

function plot(width, height, label, ...children) {
  return svg("svg", { class: "plot", viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": label }, ...children);
}

function mark(tag, attributes, title, go) {
  const press = (event) => { if (event.type === "click" || event.key === "Enter" || event.key === " ") { event.preventDefault(); go?.(); } };
  const made = svg(tag, { ...attributes, class: "mark", tabindex: go ? 0 : -1, role: go ? "button" : "img", "aria-label": title, onclick: press, onkeydown: press });
  made.append(svg("title", {}, title));
  return made;
}

const words = (x, y, text, attributes = {}) => svg("text", { x, y, ...attributes }, visible(text, 60));

/** Logarithmic axes; a dot a kernel. */
export function roofline(panel, go) {
  const [w, h, left, bottom] = [380, 300, 52, 36];
  const points = panel.points.filter((p) => p.x > 0 && p.y > 0);
  if (!points.length) return el("p", { class: "about" }, "no kernel has both operations and bytes");
  const peak = Math.max(...panel.roofs.map((r) => r.flops), ...points.map((p) => p.y));
  const [x0, x1] = [Math.min(...points.map((p) => p.x), 1) / 2, Math.max(...points.map((p) => p.x), panel.bandwidth ? (2 * peak) / panel.bandwidth : 1) * 2];
  const [y0, y1] = [Math.min(...points.map((p) => p.y)) / 2, peak * 2];
  const X = (v) => left + ((Math.log10(v) - Math.log10(x0)) / (Math.log10(x1) - Math.log10(x0))) * (w - left - 8);
  const Y = (v) => h - bottom - ((Math.log10(v) - Math.log10(y0)) / (Math.log10(y1) - Math.log10(y0))) * (h - bottom - 10);
  const parts = [];
  for (let e = Math.ceil(Math.log10(x0)); e <= Math.log10(x1); e++) parts.push(svg("line", { class: "grid", x1: X(10 ** e), x2: X(10 ** e), y1: 10, y2: h - bottom }), words(X(10 ** e), h - bottom + 14, `${10 ** e}`, { "text-anchor": "middle", class: "faint" }));
  for (let e = Math.ceil(Math.log10(y0)); e <= Math.log10(y1); e++) parts.push(svg("line", { class: "grid", x1: left, x2: w - 8, y1: Y(10 ** e), y2: Y(10 ** e) }), words(left - 4, Y(10 ** e) + 4, figure(10 ** e, "FLOP/s").replace("FLOP/s", ""), { "text-anchor": "end", class: "faint" }));
  let lowest = -Infinity; // labels of near roofs stand below one another
  panel.roofs.forEach((roof) => {
    lowest = Math.max(Y(roof.flops) - 4, lowest + 12);
    const knee = panel.bandwidth ? Math.max(x0, roof.flops / panel.bandwidth) : x0;
    parts.push(svg("polyline", { fill: "none", stroke: "var(--ink)", "stroke-width": 1.5, points: `${X(Math.max(x0, y0 / (panel.bandwidth || 1)))},${Y(Math.max(y0, x0 * panel.bandwidth))} ${X(knee)},${Y(roof.flops)} ${X(x1)},${Y(roof.flops)}` }));
    parts.push(words(w - 10, lowest, `${roof.title} ${figure(roof.flops, "FLOP/s")}`, { "text-anchor": "end" }));
  });
  const most = Math.max(...points.map((p) => p.ms));
  const groups = [...new Set(points.map((p) => p.group))];
  const color = (g) => ({ int8: "#009e73", "int8+fp16": "#0072b2", fp16: "#56b4e9", fp32: "#e69f00" })[g] || "#cc79a7";
  for (const p of [...points].sort((a, b) => b.ms - a.ms)) {
    parts.push(mark("circle", { cx: X(p.x), cy: Y(p.y), r: 2 + 7 * Math.sqrt(p.ms / most), fill: color(p.group), "fill-opacity": 0.65 },
      `${visible(p.label, 80)}: ${figure(p.ms, "ms")}, ${figure(p.y, "FLOP/s")} at ${(+p.x).toPrecision(3)} FLOP a byte, ${p.group}`, () => go(p.ref)));
  }
  parts.push(words(w / 2, h - 4, "operations for each byte moved", { "text-anchor": "middle" }), words(left, 8, "FLOP/s", { class: "faint" }));
  return el("div", {}, plot(w, h, "roofline", parts), el("p", {}, groups.map((g) => [chip(color(g)), g])));
}

/** Where a metric's sum goes, level by level: as wide as its share. */
export function flame(graph, metric, mode, go) {
  const about = graph.file.metrics.get(metric);
  const total = graph.folded(0, metric, mode) || 0;
  if (about.fold !== "sum" || !total) return el("p", { class: "about" }, `choose a colour that adds up (time, operations, bytes): ${about.title} does not`);
  const [w, row] = [380, 20];
  const parts = [];
  let deepest = 0;
  const draw = (item, x, width, depth) => {
    const value = item >= 0 ? graph.value(item, metric, mode) : graph.folded(-1 - item, metric, mode);
    deepest = Math.max(deepest, depth);
    const name = item >= 0 ? graph.node(item).path.at(-1) || graph.node(item).name : graph.modules[-1 - item].label || "model";
    const title = `${item >= 0 ? graph.node(item).path.join(".") || graph.node(item).name : graph.modules[-1 - item].path || "model"}: ${figure(value, about.unit)}, ${((100 * value) / total).toFixed(1)} %`;
    parts.push(mark("rect", { x, y: depth * row, width: Math.max(0.4, width - 0.6), height: row - 1.5, rx: 2, fill: ramp(Math.sqrt(value / total)) }, visible(title, 160), () => go(item)));
    if (width > 34) parts.push(svg("text", { x: x + 4, y: depth * row + 13, "pointer-events": "none", fill: Math.sqrt(value / total) > 0.55 ? "#111" : "#fff" }, visible(name, Math.floor(width / 6.4))));
    if (item >= 0) return;
    let at = x;
    const children = graph.modules[-1 - item].layers.flat().filter((e) => typeof e === "number" && (e < 0 || graph.shown(e, mode)));
    for (const child of children.sort((a, b) => first(graph, a) - first(graph, b))) {
      const part = (child >= 0 ? graph.value(child, metric, mode) : graph.folded(-1 - child, metric, mode)) || 0;
      const size = (width * part) / (value || 1);
      if (size > 0.8) draw(child, at, size, depth + 1);
      at += size;
    }
  };
  draw(-1, 0, w, 0);
  for (const text of parts) if (text.tagName === "text") text.setAttribute("class", "inbar");
  return plot(w, (deepest + 1) * row, `${about.title} by module`, parts);
}

const first = (graph, item) => (item >= 0 ? item : graph.under[-1 - item][0] ?? 0);

/** A tensor's magnitudes and the end of its range. */
export function histogram(item, go) {
  const [w, h] = [380, 84];
  const most = Math.max(...item.bins, 1);
  const share = (n) => Math.log1p(n) / Math.log1p(most); // tails are what ranges are about
  const step = w / item.bins.length;
  const bars = item.bins.map((n, i) => svg("rect", { x: i * step, y: 14 + (1 - share(n)) * 56, width: Math.max(0.5, step - 0.6), height: share(n) * 56, fill: (i * item.top) / item.bins.length >= item.range ? "#d55e00" : "#56b4e9" }));
  const x = Math.min(w - 1, (item.range / item.top) * w);
  return el("div", {},
    el("ul", { class: "links" }, el("li", {}, el("button", { onclick: () => go(item.ref) }, visible(item.title, 90)))),
    plot(w, h, `histogram of ${visible(item.title, 80)}`, bars, svg("line", { x1: x, x2: x, y1: 8, y2: 70, stroke: "var(--ink)", "stroke-width": 1.5, "stroke-dasharray": "3 2" }),
      words(Math.min(x, w - 4), 8, `±${(+item.range).toPrecision(3)}`, { "text-anchor": x > w / 2 ? "end" : "start" }),
      words(0, 82, "0", { class: "faint" }), words(w, 82, (+item.top).toPrecision(3), { "text-anchor": "end", class: "faint" }),
      words(w / 2, 82, `${item.calibrator ? `${item.calibrator}, ` : ""}clipped ${(100 * item.clipped).toPrecision(2)} %, ${(+item.noise).toPrecision(3)} dB (log counts)`, { "text-anchor": "middle" })));
}

/** A value before and after, a bar each. */
export function bars(panel, go) {
  const [w, row, left] = [380, 22, 120];
  const most = Math.max(...panel.rows.map((r) => r.before), 1);
  const parts = panel.rows.flatMap((r, i) => {
    const y = i * row;
    const title = `${visible(r.label, 60)}: ${figure(r.before, "")} → ${figure(r.after, "")} ${panel.unit}, −${r.before ? (100 * (1 - r.after / r.before)).toFixed(1) : 0} %`;
    return [words(left - 6, y + 14, r.label, { "text-anchor": "end" }),
      svg("rect", { x: left, y: y + 3, width: ((w - left - 60) * r.before) / most, height: row - 8, fill: "var(--edge)" }),
      mark("rect", { x: left, y: y + 3, width: ((w - left - 60) * r.after) / most, height: row - 8, fill: "#0072b2" }, title, () => go(r.ref)),
      words(left + ((w - left - 60) * r.before) / most + 4, y + 14, r.before ? `−${(100 * (1 - r.after / r.before)).toFixed(0)} %` : "", { class: "faint" })];
  });
  return el("div", {}, plot(w, panel.rows.length * row + 4, panel.title, parts), panel.notes?.length ? el("pre", { class: "text" }, panel.notes.map((n) => visible(n)).join("\n")) : null);
}

/** Deltas that add up; what was not taken is hatched beside it. */
export function waterfall(panel, go) {
  const [w, row, left] = [380, 22, 110];
  const total = panel.rows.reduce((sum, r) => sum + (r.taken ? Math.max(0, r.delta) : 0), 0);
  const all = panel.rows.reduce((sum, r) => sum + Math.max(0, r.delta), 0) || 1;
  let at = 0;
  const X = (v) => left + ((w - left - 50) * v) / all;
  const parts = panel.rows.flatMap((r, i) => {
    const start = at;
    const size = Math.max(0, r.delta);
    if (r.taken) at += size;
    return [words(left - 6, i * row + 14, r.label, { "text-anchor": "end" }),
      mark("rect", { x: X(start), y: i * row + 3, width: Math.max(2, X(start + size) - X(start)), height: row - 8, fill: r.taken ? "#009e73" : "none", stroke: r.taken ? "#009e73" : "#d55e00", "stroke-dasharray": r.taken ? "" : "4 3" }, `${visible(r.label, 60)}: ${visible(r.text)}`, () => go(r.ref)),
      words(X(start + size) + 5, i * row + 14, `${r.delta > 0 ? "+" : ""}${+(+r.delta).toPrecision(3)}`, { class: "faint" })];
  });
  const rows = panel.rows.filter((r) => !r.taken);
  return el("div", {}, plot(w, panel.rows.length * row + 4, panel.title, parts),
    el("p", { class: "about" }, `${+total.toPrecision(3)} ${panel.unit} taken; dashed: left in floating point`),
    rows.length ? el("ul", { class: "links" }, rows.map((r) => el("li", {}, el("button", { onclick: () => go(r.ref) }, `${visible(r.label)}: ${visible(r.text)}`)))) : null);
}

export function scatter(panel) {
  const [w, h, pad] = [380, 260, 44];
  const [xs, ys] = [panel.points.map((p) => p.x), panel.points.map((p) => p.y)];
  const range = (v) => { const [a, b] = [Math.min(...v), Math.max(...v)]; const space = (b - a || 1) * 0.08; return [a - space, b + space]; };
  const [[x0, x1], [y0, y1]] = [range(xs), range(ys)];
  const X = (v) => pad + ((v - x0) / (x1 - x0)) * (w - pad - 10);
  const Y = (v) => h - pad - ((v - y0) / (y1 - y0)) * (h - pad - 10);
  const front = panel.points.filter((p) => p.front).sort((a, b) => a.x - b.x);
  return plot(w, h, panel.title,
    svg("line", { class: "axis", x1: pad, x2: w - 8, y1: h - pad, y2: h - pad }), svg("line", { class: "axis", x1: pad, x2: pad, y1: 8, y2: h - pad }),
    words(w / 2, h - 8, panel.xlabel, { "text-anchor": "middle" }), words(4, 10, panel.ylabel, {}),
    [[x0, "start"], [x1, "end"]].map(([v, anchor]) => words(X(v), h - pad + 14, `${+v.toPrecision(3)}`, { "text-anchor": anchor, class: "faint" })),
    [y0, y1].map((v) => words(pad - 4, Y(v) + 4, `${+v.toPrecision(3)}`, { "text-anchor": "end", class: "faint" })),
    svg("polyline", { fill: "none", stroke: "#0072b2", points: front.map((p) => `${X(p.x)},${Y(p.y)}`).join(" ") }),
    panel.points.map((p) => mark("circle", { cx: X(p.x), cy: Y(p.y), r: p.front ? 6 : 4, fill: p.front ? "#0072b2" : "var(--line)" }, `${visible(p.label, 100)}: ${+p.x.toPrecision(4)}, ${+p.y.toPrecision(4)}`)));
}

export function chip(color) {
  const made = el("span", { class: "chip" });
  if (color) made.style.background = color;
  return made;
}

export function legend(scene) {
  const { about, low, high, words: known, color, worseIsLess } = scale(scene.graph, scene.metric, scene.mode);
  if (about.kind === "words") return el("div", {}, el("strong", {}, about.title), known.map((word) => el("span", { class: "word" }, chip(color(word)), word)));
  const strip = el("canvas", { class: "ramp", width: 220, height: 10, "aria-hidden": "true" });
  const g = strip.getContext("2d");
  for (let x = 0; x < 220; x++) { g.fillStyle = ramp(x / 219); g.fillRect(x, 0, 1, 10); }
  const ends = worseIsLess ? [high, low] : [low, high];
  return el("div", {}, el("strong", {}, about.title), strip, el("div", { class: "ends" }, ends.map((v) => el("span", {}, figure(v, about.unit)))));
}
