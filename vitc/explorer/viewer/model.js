// The data of a file, unpacked and indexed. What the fields mean is written in schema.json.

/** Names come from other people's models: control and direction characters are shown, not obeyed. */
export function visible(text, most = 400) {
  const shown = String(text).replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g,
    (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
  return shown.length > most ? `${shown.slice(0, most - 1)}…` : shown;
}

/** "aten.add.Tensor" -> "add". */
export function shortOp(op) {
  const [head, ...rest] = op.split(".");
  return (["aten", "vitc", "prims"].includes(head) && rest.length ? rest[0] : head) || op;
}

/** Six orders of magnitude in four digits: 12340000 -> "12.3 M". */
export function figure(value, unit = "") {
  if (typeof value !== "number") return value === null || value === undefined ? "–" : visible(value);
  if (unit === "" && value > 0 && value < 1) return `${+(100 * value).toPrecision(3)} %`;
  const steps = unit === "ms" || unit === "dB" ? [[1, ""]] : [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""]];
  const [scale, prefix] = steps.find(([s]) => Math.abs(value) >= s) || [1, ""];
  return `${+(value / scale).toPrecision(3)} ${prefix}${unit}`.trim();
}

/** Base64 of deflated JSON -> the object. */
export async function unpack(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return JSON.parse(await new Response(stream).text());
}

/** The parts of another explorer file, from its text; null where it is none. */
export async function readFile(text) {
  const part = (name) => new RegExp(`id="vitc-${name}"[^>]*>([A-Za-z0-9+/=]*)<`).exec(text);
  const [data, run] = [part("data"), part("run")];
  return data && run ? [await unpack(data[1]), await unpack(run[1])] : null;
}

export class File {
  constructor(data, run) {
    this.data = data;
    this.run = run;
    this.metrics = new Map(data.metrics.map((metric) => [metric.id, metric]));
    this.steps = data.steps.map((step, i) => new Graph(this, step, i));
    this.notes = new Map(); // what panels say of a node or module, for the search
    for (const panel of data.panels) {
      for (const row of panel.rows || panel.items || []) {
        if (!row.ref) continue;
        const text = (row.cells || [row.label || row.title, row.text]).filter((c) => typeof c === "string").join(" ");
        this.notes.set(row.ref, `${this.notes.get(row.ref) || ""} ${text}`);
      }
    }
  }

  get last() { return this.steps[this.steps.length - 1]; }
}

/** A step's graph, which holds both sides of the pass. Nodes are indices; modules too. */
export class Graph {
  constructor(file, step, number) {
    this.file = file;
    this.step = step;
    this.number = number;
    this.state = step.state;
    this.modules = step.modules;
    this.count = step.nodes.length;
    this.parent = new Int32Array(this.count).fill(0);
    this.level = new Map(); // item -> its layer
    this.modules.forEach((module, m) => module.layers.forEach((layer, n) => layer.forEach((entry) => {
      if (typeof entry !== "number") return;
      this.level.set(entry, n);
      if (entry >= 0) this.parent[entry] = m;
    })));
    this.values = new Map(Object.entries(step.values).map(([name, found]) => [name, new Map(Object.entries(found).map(([i, v]) => [+i, v]))]));
    this.under = this.modules.map(() => []);
    for (let i = 0; i < this.count; i++) for (let m = this.parent[i]; m >= 0; m = this.modules[m].parent) this.under[m].push(i);
    this.open = new Set([0]);
  }

  /** The record of a node: as it is after the pass, or was before. */
  node(i, before = false) {
    const was = this.step.was[i];
    return this.file.data.nodes[before && was !== undefined ? was : this.step.nodes[i]];
  }

  shown(i, mode) {
    const state = this.state[i];
    return mode === "diff" || (mode === "after" ? state !== "-" : state !== "+");
  }

  /** A metric of one node; of what the pass took away, or in the view before it, from the step before. */
  value(i, metric, mode = "after") {
    if (metric === "change") return { "=": "same", "~": "changed", "+": "added", "-": "removed" }[this.state[i]];
    if ((this.state[i] === "-" || mode === "before") && this.number > 0) {
      const before = this.file.steps[this.number - 1];
      const j = before.at(this.node(i).id);
      return j < 0 ? undefined : before.value(j, metric);
    }
    return this.values.get(metric)?.get(i);
  }

  /** The node with an identity, as this step leaves it; -1 where there is none. */
  at(id) {
    if (!this.byId) {
      this.byId = new Map();
      for (let i = 0; i < this.count; i++) if (this.state[i] !== "-") this.byId.set(this.node(i).id, i);
    }
    return this.byId.get(id) ?? -1;
  }

  named(name) {
    if (!this.byName) {
      this.byName = new Map();
      for (let i = 0; i < this.count; i++) if (this.state[i] !== "-" || !this.byName.has(this.node(i).name)) this.byName.set(this.node(i).name, i);
    }
    return this.byName.get(name) ?? -1;
  }

  /** The module of a path, or the nearest one that holds it. */
  moduleAt(path) {
    let best = 0;
    this.modules.forEach((module, m) => {
      const p = module.path;
      if ((path === p || path.startsWith(`${p}.`)) && p.length > this.modules[best].path.length) best = m;
    });
    return best;
  }

  /** A metric of all nodes of a module that the mode shows, folded as the metric says. */
  folded(m, metric, mode = "after") {
    const about = this.file.metrics.get(metric);
    let sum = 0, weights = 0, worst, seen = 0;
    const mix = new Map();
    for (const i of this.under[m]) {
      if (!this.shown(i, mode)) continue;
      const value = this.value(i, metric, mode);
      if (value === undefined) continue;
      seen++;
      if (about.kind === "words") {
        if (about.fold === "worst") worst = worst === undefined || about.words.indexOf(value) > about.words.indexOf(worst) ? value : worst;
        else mix.set(value, (mix.get(value) || 0) + (about.weight ? this.value(i, about.weight, mode) || 1e-9 : 1));
      } else if (about.fold === "mean") {
        const weight = this.value(i, about.weight, mode) || 0;
        sum += weight * value; weights += weight;
      } else if (about.fold === "worst") {
        worst = worst === undefined ? value : about.unit === "dB" ? Math.min(worst, value) : Math.max(worst, value);
      } else sum += value;
    }
    if (!seen) return undefined;
    if (about.kind === "words" && about.fold !== "worst") {
      if (metric === "change") {
        const changed = [...mix.keys()].filter((word) => word !== "same");
        return changed.length === 0 ? "same" : changed.length === 1 && !mix.has("same") ? changed[0] : "changed";
      }
      return [...mix].sort((a, b) => b[1] - a[1])[0][0];
    }
    if (about.fold === "mean") return weights ? sum / weights : undefined;
    return about.fold === "worst" ? worst : sum;
  }

  /** Edges as [from, to, side]; with what each crosses, for drawing. */
  get edges() {
    if (this.routes) return this.routes;
    this.routes = [];
    const flat = this.step.edges;
    const way = (i) => {
      const items = [i];
      for (let m = this.parent[i]; m > 0; m = this.modules[m].parent) items.push(-1 - m);
      return items.reverse();
    };
    for (let k = 0; k < flat.length; k += 3) {
      const [from, to, side] = [flat[k], flat[k + 1], flat[k + 2]];
      const [up, down] = [way(from), way(to)];
      let depth = 0;
      while (depth < up.length - 1 && depth < down.length - 1 && up[depth] === down[depth]) depth++;
      this.routes.push({ from, to, side, minor: this.node(from).minor === 1, up: up.slice(depth), down: down.slice(depth) });
    }
    return this.routes;
  }

  home(item) { return item >= 0 ? this.parent[item] : this.modules[-1 - item].parent; }

  /** Opens every module around an item. */
  reveal(item) {
    for (let m = this.home(item); m >= 0; m = this.modules[m].parent) this.open.add(m);
  }

  openAll() { this.modules.forEach((_, m) => this.open.add(m)); }
}
