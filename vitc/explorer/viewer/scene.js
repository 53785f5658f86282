import { visible, shortOp, figure } from "./model.js";
import { arrange } from "./geometry.js";
import { scale, inkOn } from "./colors.js";

// One graph on one canvas: what is in sight is drawn anew each frame, the rest costs nothing.

const MARK = { "+": "+", "-": "−", "~": "~" };
const EDGE_COLORS = { 1: "#009e73", "-1": "#d55e00" };

export class Scene {
  constructor(canvas, minimap) {
    this.canvas = canvas;
    this.minimap = minimap;
    this.camera = { x: 0, y: 0, k: 1 };
    this.mode = "after";
    this.metric = "ms";
    this.selected = null; // an item
    this.matches = null; // a set of items that a search found
    this.override = null; // item -> word of `change`, in a comparison
    this.dirty = false;
  }

  show(graph, { mode = this.mode, metric = this.metric } = {}) {
    this.graph = graph;
    this.mode = graph.number === 0 && mode !== "after" ? "after" : mode;
    this.metric = graph.file.metrics.has(metric) ? metric : "change";
    this.layOut();
  }

  layOut() {
    this.drawing = arrange(this.graph, this.mode);
    this.paint();
  }

  /** Colours, and everything that does not depend on the camera. */
  paint() {
    const { graph, mode } = this;
    this.scale = scale(graph, this.metric, mode);
    const css = getComputedStyle(document.documentElement);
    this.theme = Object.fromEntries(["paper", "ink", "dim", "line", "node", "group", "accent"].map((name) => [name, css.getPropertyValue(`--${name}`).trim()]));
    for (const box of this.drawing.boxes) {
      const node = box.item >= 0 ? graph.node(box.item, mode === "before") : null;
      const value = this.valueOf(box.item);
      box.fill = (value !== undefined && this.scale.color(value)) || "";
      box.state = this.override ? this.override.get(box.item) || "=" : node ? graph.state[box.item] : box.open ? "=" : stateOfModule(graph, -1 - box.item, mode);
      box.title = node ? titleOf(graph, node, box.item) : moduleTitle(graph.modules[-1 - box.item]);
      box.note = node ? visible(node.type, 60) : closedNote(graph, -1 - box.item, mode, this.metric, value);
    }
    this.byTop = this.drawing.boxes.filter((box) => !box.open).sort((a, b) => a.y - b.y);
    this.frames = this.drawing.boxes.filter((box) => box.open).sort((a, b) => a.depth - b.depth);
    this.drawMap();
    this.invalidate();
  }

  valueOf(item) {
    if (this.override && this.metric === "change") return { "=": "same", "+": "added", "-": "removed", "~": "changed" }[this.override.get(item) || "="];
    return item >= 0 ? this.graph.value(item, this.metric, this.mode) : this.graph.folded(-1 - item, this.metric, this.mode);
  }

  invalidate() {
    if (this.dirty) return;
    this.dirty = true;
    requestAnimationFrame(() => { this.dirty = false; this.draw(); });
  }

  size() {
    const ratio = window.devicePixelRatio || 1;
    const [w, h] = [this.canvas.clientWidth, this.canvas.clientHeight];
    if (this.canvas.width !== Math.round(w * ratio) || this.canvas.height !== Math.round(h * ratio)) {
      this.canvas.width = Math.round(w * ratio); this.canvas.height = Math.round(h * ratio);
    }
    return { w, h, ratio };
  }

  draw() {
    if (!this.graph) return;
    const { w, h, ratio } = this.size();
    const g = this.canvas.getContext("2d", { alpha: false });
    const { x, y, k } = this.camera;
    const view = { left: -x / k, top: -y / k, right: (w - x) / k, bottom: (h - y) / k };
    g.setTransform(1, 0, 0, 1, 0, 0);
    g.fillStyle = this.theme.paper;
    g.fillRect(0, 0, this.canvas.width, this.canvas.height);
    g.setTransform(ratio * k, 0, 0, ratio * k, ratio * x, ratio * y);
    for (const box of this.frames) if (box.h * k > 3 && meets(box, view)) this.drawFrame(g, box, k);
    this.drawLines(g, view, k);
    this.drawBoxes(g, view, k);
    if (this.onDraw) this.onDraw(view);
  }

  drawFrame(g, box, k) {
    g.fillStyle = this.theme.group;
    g.strokeStyle = box.item === this.selected ? this.theme.accent : this.theme.line;
    g.lineWidth = (box.item === this.selected ? 3 : 1) / Math.max(k, 0.4);
    if (k < 0.2 && box.item !== this.selected) { g.fillRect(box.x, box.y, box.w, box.h); return; }
    rounded(g, box.x, box.y, box.w, box.h, 8);
    g.fill(); g.stroke();
    if (k < 0.25) return;
    g.fillStyle = this.theme.dim;
    g.font = "600 13px system-ui, sans-serif";
    g.textAlign = "left"; g.textBaseline = "middle";
    g.fillText(fit(g, `▾ ${box.title}`, box.w - 20), box.x + 10, box.y + 14);
  }

  drawLines(g, view, k) {
    const far = k < 0.12; // nodes are a few pixels: lines between them would be a smear
    const batches = new Map();
    const chosen = [];
    for (const line of this.drawing.lines) {
      if (line.bottom < view.top || line.top > view.bottom || line.right < view.left - 40 || line.left > view.right + 40) continue;
      if (this.selected !== null && (line.a === this.selected || line.b === this.selected)) { chosen.push(line); continue; }
      if (far && (line.bottom - line.top) * k < 12) continue;
      const color = this.mode === "diff" && EDGE_COLORS[line.side] || this.theme.line;
      if (!batches.has(color)) batches.set(color, []);
      batches.get(color).push(line);
    }
    for (const [color, lines] of batches) {
      g.strokeStyle = color;
      g.lineWidth = color === this.theme.line ? 1.3 : 2;
      g.setLineDash(color === EDGE_COLORS[-1] ? [6, 4] : []);
      g.beginPath();
      for (const line of lines) trace(g, line.points, far);
      g.stroke();
    }
    g.setLineDash([]);
    if (!far) for (const [color, lines] of batches) { g.fillStyle = color; g.beginPath(); for (const line of lines) head(g, line.points); g.fill(); }
    g.strokeStyle = g.fillStyle = this.theme.accent;
    g.lineWidth = 2.5 / Math.max(k, 0.5);
    g.beginPath();
    for (const line of chosen) trace(g, line.points, false);
    g.stroke();
    g.beginPath();
    for (const line of chosen) head(g, line.points);
    g.fill();
  }

  drawBoxes(g, view, k) {
    const small = k < 0.3;
    const batches = new Map();
    const near = [];
    // Sorted by top; nothing closed is taller than a series card. Where thousands are in sight each is less than a pixel
    // high, and every n-th shows as much as all.
    const start = lowerBound(this.byTop, view.top - 80), end = lowerBound(this.byTop, view.bottom + 1);
    const stride = k * 42 < 1 ? Math.max(1, Math.floor((end - start) / 1500)) : 1;
    for (let i = start - (start % stride); i < end; i += stride) {
      const box = this.byTop[i];
      if (box.x > view.right || box.x + box.w < view.left) continue;
      if (small && box.item >= 0 && box.item !== this.selected) {
        const color = this.faded(box) ? this.theme.group : this.changeFill(box);
        if (!batches.has(color)) batches.set(color, []);
        batches.get(color).push(box);
      } else near.push(box);
    }
    for (const [color, boxes] of batches) {
      g.fillStyle = color;
      for (const box of boxes) g.fillRect(box.x, box.y, box.w, box.h);
    }
    for (const box of near) this.drawBox(g, box, k);
  }

  faded(box) { return this.matches !== null && !this.matches.has(box.item); }

  changeFill(box) {
    if (this.mode === "diff" && !this.override && box.state === "=" && this.metric === "change") return this.theme.node;
    return box.fill || this.theme.node;
  }

  drawBox(g, box, k) {
    const { theme } = this;
    const fill = this.changeFill(box);
    const module = box.item < 0 ? this.graph.modules[-1 - box.item] : null;
    g.globalAlpha = this.faded(box) ? 0.25 : this.mode === "diff" && box.state === "=" && box.item !== this.selected ? 0.55 : 1;
    g.lineWidth = 1;
    g.strokeStyle = theme.line;
    if (module?.series) for (const d of [8, 4]) { g.fillStyle = theme.group; rounded(g, box.x + d, box.y + d, box.w - 8, box.h - 8, 7); g.fill(); g.stroke(); }
    const [w, h] = module?.series ? [box.w - 8, box.h - 8] : [box.w, box.h];
    g.fillStyle = fill;
    rounded(g, box.x, box.y, w, h, module ? 7 : 5);
    g.fill();
    const marked = this.mode === "diff" || this.override ? box.state : "=";
    if (box.item === this.selected) { g.strokeStyle = theme.accent; g.lineWidth = 3.5; }
    else if (marked !== "=") { g.strokeStyle = { "+": "#009e73", "-": "#d55e00", "~": "#e69f00" }[marked]; g.lineWidth = 3; g.setLineDash(marked === "-" ? [7, 4] : []); }
    g.stroke();
    g.setLineDash([]);
    if (k * 13 > 5) {
      const ink = fill.startsWith("#") ? inkOn(fill) : theme.ink;
      g.fillStyle = ink;
      g.textAlign = "left"; g.textBaseline = "middle";
      g.font = module ? "600 14px system-ui, sans-serif" : "600 13px system-ui, sans-serif";
      const room = w - 20 - (marked !== "=" ? 16 : 0);
      const title = module ? `▸ ${box.title}` : box.title;
      g.fillText(fit(g, title, room), box.x + 10, box.y + (module ? 18 : 14));
      g.font = "11px system-ui, sans-serif";
      g.fillText(fit(g, box.note, w - 20), box.x + 10, box.y + (module ? 37 : 30));
      if (marked !== "=") { g.font = "700 16px system-ui, sans-serif"; g.textAlign = "right"; g.fillText(MARK[marked], box.x + w - 8, box.y + 13); }
    }
    g.globalAlpha = 1;
  }

  drawMap() {
    const map = this.minimap;
    if (!map) return;
    const [w, h] = [map.clientWidth, map.clientHeight];
    if (!w) return;
    map.width = w; map.height = h;
    const g = map.getContext("2d", { willReadFrequently: true });
    const k = Math.min(w / (this.drawing.width + 40), h / (this.drawing.height + 40));
    this.mapScale = { k, x: (w - this.drawing.width * k) / 2, y: (h - this.drawing.height * k) / 2 };
    g.fillStyle = this.theme.paper;
    g.fillRect(0, 0, w, h);
    for (const box of [...this.frames, ...this.byTop]) {
      g.fillStyle = box.open ? this.theme.group : this.changeFill(box) === this.theme.node ? this.theme.line : this.changeFill(box);
      g.fillRect(this.mapScale.x + box.x * k, this.mapScale.y + box.y * k, Math.max(1, box.w * k), Math.max(1, box.h * k));
    }
    this.mapImage = g.getImageData(0, 0, w, h);
  }

  drawMapView(view) {
    if (!this.minimap || !this.mapImage) return;
    const g = this.minimap.getContext("2d");
    const { k, x, y } = this.mapScale;
    g.putImageData(this.mapImage, 0, 0);
    g.strokeStyle = this.theme.accent;
    g.lineWidth = 1.5;
    g.strokeRect(x + view.left * k, y + view.top * k, (view.right - view.left) * k, (view.bottom - view.top) * k);
  }

  /** The item under a point of the canvas; an open module only by its head. */
  hit(px, py) {
    const { x, y, k } = this.camera;
    const [wx, wy] = [(px - x) / k, (py - y) / k];
    const inside = (box) => wx >= box.x && wx <= box.x + box.w && wy >= box.y && wy <= box.y + box.h;
    const closed = this.byTop.find(inside);
    if (closed) return closed.item;
    const open = [...this.frames].reverse().find(inside);
    return open ? open.item : null;
  }

  fitAll() {
    const { w: all, h } = this.size();
    const w = all > 500 ? all - 110 : all; // beside the small map
    const k = Math.min(1.4, (w - 40) / Math.max(1, this.drawing.width), (h - 60) / Math.max(1, this.drawing.height));
    // A tall graph is begun at its top, readable, rather than shown whole as a thread.
    const scaled = k < 0.3 && this.drawing.boxes.length < 3000 ? Math.min(0.8, (w - 40) / Math.max(1, this.drawing.width)) : k;
    this.camera = { k: scaled, x: (w - this.drawing.width * scaled) / 2, y: Math.max(24, (h - this.drawing.height * scaled) / 2) };
    this.invalidate();
  }

  fitWhole() {
    const { w, h } = this.size();
    const k = Math.min(1.4, (w - 40) / Math.max(1, this.drawing.width), (h - 60) / Math.max(1, this.drawing.height));
    this.camera = { k, x: (w - this.drawing.width * k) / 2, y: (h - this.drawing.height * k) / 2 };
    this.invalidate();
  }

  centre(item, k = Math.max(this.camera.k, 0.75)) {
    const box = this.drawing.box.get(item);
    if (!box) return;
    const { w, h } = this.size();
    const scaled = box.open ? Math.min(k, (h - 40) / box.h, (w - 40) / box.w) : k;
    this.camera = { k: scaled, x: w / 2 - (box.x + box.w / 2) * scaled, y: (box.open ? Math.max(h / 2 - (box.h * scaled) / 2, 20) + (box.h * scaled) / 2 : h / 2) - (box.y + box.h / 2) * scaled };
    this.invalidate();
  }

  zoom(factor, px = this.canvas.clientWidth / 2, py = this.canvas.clientHeight / 2) {
    const { x, y, k } = this.camera;
    const scaled = Math.max(0.005, Math.min(4, k * factor));
    this.camera = { k: scaled, x: px - ((px - x) * scaled) / k, y: py - ((py - y) * scaled) / k };
    this.invalidate();
  }

  pan(dx, dy) {
    this.camera.x += dx; this.camera.y += dy;
    this.invalidate();
  }
}

function stateOfModule(graph, m, mode) {
  const states = new Set(graph.under[m].filter((i) => graph.shown(i, mode)).map((i) => graph.state[i]));
  return states.size === 1 ? [...states][0] : states.size === 0 || (states.size === 1 && states.has("=")) ? "=" : "~";
}

function titleOf(graph, node, item) {
  const around = graph.modules[graph.parent[item]].path;
  const path = node.path.join(".");
  const own = path.startsWith(around) ? path.slice(around ? around.length + 1 : 0) : path;
  const op = node.op === "input" || node.op === "output" ? `${node.op} ${node.op === "input" ? node.name : ""}` : shortOp(node.op);
  return visible(own && own !== node.op ? `${own} · ${op}` : op, 80);
}

function moduleTitle(module) {
  return visible(module.label || "model", 80) + (module.series ? ` ×${module.series.count}` : "");
}

function closedNote(graph, m, mode, metric, value) {
  const module = graph.modules[m];
  const about = graph.file.metrics.get(metric);
  const shown = value === undefined ? "" : about.kind === "words" ? value : figure(value, about.unit);
  const differ = module.series?.differ.length;
  const parts = [`${graph.under[m].filter((i) => graph.shown(i, mode)).length} nodes`, shown];
  if (differ) parts.push(`${differ} differ${differ === 1 ? "s" : ""}: ${module.series.differ.slice(0, 4).map((d) => d[0]).join(", ")}${differ > 4 ? " …" : ""}`);
  else if (module.series) parts.push("all equal");
  return visible(parts.filter(Boolean).join(" · "), 80);
}

function trace(g, points, straight) {
  g.moveTo(points[0][0], points[0][1]);
  for (let i = 1; i < points.length; i++) {
    const [[ax, ay], [bx, by]] = [points[i - 1], points[i]];
    if (straight || ax === bx) g.lineTo(bx, by);
    else { const bend = Math.max(10, Math.abs(by - ay) / 2); g.bezierCurveTo(ax, ay + bend, bx, by - bend, bx, by); }
  }
}

function head(g, points) {
  const [x, y] = points[points.length - 1];
  g.moveTo(x, y); g.lineTo(x - 4, y - 7); g.lineTo(x + 4, y - 7); g.closePath();
}

function rounded(g, x, y, w, h, r) {
  g.beginPath();
  g.roundRect(x, y, w, h, r);
}

const widths = new Map();
/** A text cut to a width; measured once for each font. */
function fit(g, text, room) {
  const key = `${g.font}|${Math.round(room)}|${text}`;
  let cut = widths.get(key);
  if (cut === undefined) {
    cut = text;
    if (g.measureText(text).width > room) {
      let [low, high] = [0, text.length];
      while (low < high) { const mid = (low + high + 1) >> 1; if (g.measureText(`${text.slice(0, mid)}…`).width <= room) low = mid; else high = mid - 1; }
      cut = `${text.slice(0, low)}…`;
    }
    if (widths.size > 50000) widths.clear();
    widths.set(key, cut);
  }
  return cut;
}

function meets(box, view) {
  return box.x <= view.right && box.x + box.w >= view.left && box.y <= view.bottom && box.y + box.h >= view.top;
}

function lowerBound(boxes, top) {
  let [low, high] = [0, boxes.length];
  while (low < high) { const mid = (low + high) >> 1; if (boxes[mid].y < top) low = mid + 1; else high = mid; }
  return low;
}
