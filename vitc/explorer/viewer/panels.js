import { figure, shortOp, visible } from "./model.js";
import { bars, el, flame, histogram, roofline, scatter, waterfall } from "./plots.js";

// What stands to the right of the graph. Each tab is a function of the page's state to an element.

/** id -> [title, render(page)], those of the file's panels among them. */
export function tabs(page) {
  const { file } = page;
  const found = new Map([
    ["overview", ["Overview", overview]],
    ["node", ["Node", selection]],
    ["changes", ["Changes", changes]],
  ]);
  if (page.files.length > 1) found.set("compare", ["Compare", comparison]);
  found.set("flame", ["Flame", (p) => el("div", {}, el("h3", {}, `${file.metrics.get(p.scene.metric).title} by module`), flame(p.graph, p.scene.metric, p.scene.mode, (item) => p.select(item, true)))]);
  for (const panel of file.data.panels) found.set(panel.id, [panel.title, (p) => filePanel(p, panel)]);
  file.data.engines.forEach((engine, i) => found.set(`engine${i || ""}`, [file.data.engines.length > 1 ? `Engine: ${visible(engine.title, 18)}` : "Engine", (p) => enginePane(p, engine)]));
  found.set("outline", ["Outline", outline]);
  return found;
}

function overview(page) {
  const { data, run } = page.file;
  const steps = data.steps;
  const facts = Object.entries(data.facts).flatMap(([name, text]) => [el("dt", {}, visible(name)), el("dd", {}, visible(text, 2000))]);
  const measured = Object.entries(run.measured || {}).flatMap(([name, ms]) => [el("dt", {}, `measured, ${visible(name)}`), el("dd", {}, figure(ms, "ms"))]);
  const series = page.file.last.modules.map((m, i) => [m, i]).filter(([m]) => m.series);
  const failed = steps.find((s) => s.error);
  const jumps = page.jumps();
  return el("div", {}, el("h3", {}, visible(data.title)), failed ? el("p", { class: "warn" }, visible(failed.error, 4000)) : null, el("dl", {}, facts, measured),
    jumps.length ? [el("h4", {}, "Numerics"), el("ul", { class: "links" }, jumps.map((i) => el("li", {}, el("button", { onclick: () => page.go(i, "diff") }, `pass ${i}, ${visible(steps[i].title, 60)}: outputs begin to deviate, ${figure(deviationBefore(steps, i), "")} → ${figure(steps[i].deviation, "")} of their largest magnitude`))))] : null,
    series.length ? [el("h4", {}, "Blocks"), series.map(([m, i]) => el("div", {}, el("ul", { class: "links" }, el("li", {}, el("button", { onclick: () => page.showLast(-1 - i) }, `${visible(m.path || m.label)} ×${m.series.count}: ${m.series.equal} equal`))), m.series.differ.length ? el("ul", {}, m.series.differ.map(([label, text]) => el("li", {}, el("strong", {}, visible(label)), `: ${visible(text, 600)}`))) : null))] : null,
    el("h4", {}, "Made by"), el("p", { class: "about" }, `${visible(data.producer)}; data ${document.getElementById("vitc-data")?.dataset.sha256?.slice(0, 12) || "from another file"}`));
}

export function deviationBefore(steps, i) { return steps[i - 1]?.deviation ?? 0; }

function selection(page) {
  const { graph, scene } = page;
  const item = scene.selected;
  if (item === null) return el("p", { class: "about" }, "Nothing is selected. Click a node, or press / and search.");
  return item >= 0 ? nodePane(page, graph, item) : modulePane(page, graph, -1 - item);
}

function valueRows(page, get) {
  return [...page.file.metrics.values()].flatMap((metric) => {
    const value = get(metric.id);
    return value === undefined ? [] : [el("dt", { title: metric.about }, metric.title), el("dd", {}, metric.kind === "words" ? visible(value) : figure(value, metric.unit))];
  });
}

function nodePane(page, graph, i) {
  const before = page.scene.mode === "before";
  const node = graph.node(i, before);
  const kinds = graph.step.altered_in[i];
  const readers = graph.edges.filter((e) => e.from === i && graph.shown(e.to, page.scene.mode)).map((e) => e.to);
  const sources = graph.edges.filter((e) => e.to === i && graph.shown(e.from, page.scene.mode)).map((e) => e.from);
  const link = (j) => el("li", {}, el("button", { onclick: () => page.select(j, true) }, `${visible(graph.node(j).name, 60)} · ${visible(shortOp(graph.node(j).op), 40)} · ${visible(graph.node(j).type, 60)}`));
  const was = graph.step.was[i] !== undefined ? graph.node(i, true) : null;
  const layers = page.layersOf(node.name);
  return el("div", {}, el("h3", {}, visible(node.name, 300)),
    el("button", { onclick: () => page.copy(nodeText(page, graph, i)) }, "Copy text (y)"),
    el("dl", {}, pair("operator", node.op), pair("module", node.path.join(".") || "(model)"), pair("type", node.type),
      pair("made by", node.made_by || "capture"), node.origin ? pair("stands for", node.origin) : null,
      graph.state[i] !== "=" ? pair("this pass", `${page.scene.valueOf(i) && graph.value(i, "change")}${kinds ? `: ${kinds.join(", ")}` : ""}`) : null,
      valueRows(page, (metric) => (metric === "change" ? undefined : graph.value(i, metric, page.scene.mode)))),
    was ? [el("h4", {}, "Before this pass"), el("pre", { class: "text" }, lines(operands(was)))] : null,
    el("h4", {}, "Operands"), el("pre", { class: "text" }, lines(operands(node))),
    page.file.notes.get(`%${node.name}`) ? [el("h4", {}, "Said of it"), el("p", { class: "about" }, visible(page.file.notes.get(`%${node.name}`), 800))] : null,
    layers.length ? [el("h4", {}, "Engine layers"), el("ul", {}, layers.map((l) => el("li", {}, `${l.kind}${l.predicted ? `, predicted ${l.predicted}` : ""}: ${visible(l.name, 120)}`)))] : null,
    el("h4", {}, "History"), history(page, node),
    sources.length ? [el("h4", {}, "Reads"), el("ul", { class: "links" }, sources.slice(0, 40).map(link))] : null,
    readers.length ? [el("h4", {}, "Read by"), el("ul", { class: "links" }, readers.slice(0, 40).map(link))] : null);
}

const lines = (text) => text.split("\n").map((line) => visible(line, 12000)).join("\n");
const pair = (name, text) => [el("dt", {}, name), el("dd", {}, visible(text, 2000))];

export function operands(node) {
  const weights = (node.weights || []).map(([name, type, digest]) => `@${name}: ${type}${digest ? ` #${digest}` : ""}`);
  return [...(node.inputs || []).map((name) => `%${name}`), ...weights, node.options ? `(${node.options})` : ""].filter(Boolean).join("\n") || "none";
}

export function nodeText(page, graph, i) {
  const node = graph.node(i, page.scene.mode === "before");
  const values = [...page.file.metrics.values()].map((m) => [m, graph.value(i, m.id, page.scene.mode)]).filter(([m, v]) => v !== undefined && m.id !== "change").map(([m, v]) => `# ${m.title}: ${m.kind === "words" ? v : figure(v, m.unit)}`);
  return [`%${node.name} : ${node.type} = ${node.op}  # ${node.path.join(".")}`, operands(node), ...values].join("\n");
}

/** Which passes made and changed a node, from its identity. */
function history(page, node) {
  const lines = [];
  page.file.steps.forEach((graph, n) => {
    for (let i = 0; i < graph.count; i++) {
      if (graph.node(i).id !== node.id || (n > 0 && graph.state[i] === "=")) continue;
      const word = n === 0 ? "captured" : { "+": "made", "-": "removed", "~": `changed: ${(graph.step.altered_in[i] || []).join(", ")}` }[graph.state[i]];
      lines.push(el("li", {}, el("button", { onclick: () => page.go(n, n ? "diff" : "after", i) }, `${n} ${visible(graph.step.title, 60)}: ${visible(word, 200)}`)));
    }
  });
  return el("ul", { class: "links" }, lines);
}

function modulePane(page, graph, m) {
  const module = graph.modules[m];
  return el("div", {}, el("h3", {}, visible(module.path || "the model", 300)), el("p", { class: "about" }, `${graph.under[m].filter((i) => graph.shown(i, page.scene.mode)).length} nodes; Enter opens and closes it`),
    module.reason ? el("p", { class: "warn" }, visible(module.reason, 1000)) : null,
    el("dl", {}, valueRows(page, (metric) => graph.folded(m, metric, page.scene.mode))),
    module.series ? [el("h4", {}, `${module.series.count} blocks, ${module.series.equal} equal`), el("ul", {}, module.series.differ.map(([label, text]) => el("li", {}, el("strong", {}, visible(label)), `: ${visible(text, 800)}`)))] : null,
    page.file.notes.get(module.path) ? [el("h4", {}, "Said of it"), el("p", { class: "about" }, visible(page.file.notes.get(module.path), 800))] : null);
}

function changes(page) {
  const { step, number } = page.graph;
  if (number === 0) return el("p", { class: "about" }, "This is the graph as it was captured: no pass has run.");
  return el("div", {}, el("h3", {}, visible(step.title)),
    el("p", {}, el("span", { class: "added" }, `+${step.created} added`), ", ", el("span", { class: "removed" }, `−${step.erased} removed`), ", ", el("span", { class: "changed" }, `~${step.altered} changed`), step.deviation !== undefined ? `; outputs deviate by ${figure(step.deviation, "")}` : ""),
    step.rewrites.map((rewrite) => el("details", { open: step.rewrites.length < 4 }, el("summary", {}, `${visible(rewrite.text, 300)}${rewrite.places.length > 1 ? ` ×${rewrite.places.length}` : ""}`),
      el("ul", { class: "links" }, rewrite.places.map((place) => el("li", {}, el("button", { onclick: () => page.select(place.nodes[0], true) }, visible(place.path || page.graph.node(place.nodes[0]).name, 120))))))),
    step.notes.length ? [el("h4", {}, "Notes of the pass"), el("pre", { class: "text" }, step.notes.map((n) => visible(n)).join("\n"))] : null,
    !step.rewrites.length ? el("p", { class: "about" }, "It found nothing to do here.") : null);
}

function filePanel(page, panel) {
  const go = (ref) => page.follow(ref);
  const body = {
    table: () => tableOf(panel, go),
    text: () => el("pre", { class: "text" }, panel.lines.map((line) => visible(line)).join("\n")),
    bars: () => bars(panel, go),
    waterfall: () => waterfall(panel, go),
    roofline: () => roofline(panel, go),
    scatter: () => scatter(panel),
    histograms: () => histograms(panel, go),
  }[panel.kind];
  return el("div", {}, el("h3", {}, visible(panel.title)), panel.about ? el("p", { class: "about" }, visible(panel.about, 1000)) : null, body ? body() : el("p", {}, `this viewer does not know panels of kind ${visible(panel.kind)}`));
}

function histograms(panel, go) {
  const sorted = [...panel.items].sort((a, b) => a.noise - b.noise);
  const list = el("div", {});
  let shown = 0;
  const more = el("button", { onclick: () => show(24) }, "More");
  function show(n) {
    for (const item of sorted.slice(shown, shown + n)) list.append(histogram(item, go));
    shown += n;
    more.hidden = shown >= sorted.length;
  }
  show(12);
  return el("div", {}, el("p", { class: "about" }, `${sorted.length} tensors, most noise first`), list, more);
}

export function tableOf(panel, go) {
  let [by, up] = [-1, false];
  const body = el("tbody", {});
  const fill = () => {
    const rows = [...panel.rows];
    if (by >= 0) rows.sort((a, b) => { const [x, y] = [a.cells[by], b.cells[by]]; const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), undefined, { numeric: true }); return up ? order : -order; });
    body.replaceChildren(...rows.slice(0, 500).map((row) => {
      const press = (event) => { if (event.type === "click" || event.key === "Enter") go(row.ref); };
      return el("tr", { class: row.ref ? "link" : "", tabindex: row.ref ? 0 : null, onclick: press, onkeydown: press }, row.cells.map((cell) => el("td", { class: typeof cell === "number" ? "number" : "" }, typeof cell === "number" ? `${+cell.toPrecision(4)}` : visible(cell ?? "–", 500))));
    }));
  };
  fill();
  const heads = panel.columns.map((column, i) => el("th", { scope: "col", tabindex: 0, onclick: () => { up = by === i ? !up : false; by = i; fill(); }, onkeydown: (e) => { if (e.key === "Enter") e.target.click(); } }, column));
  return el("table", {}, el("thead", {}, el("tr", {}, heads)), body);
}

/** Engine layers on the left, the modules they came from on the right; press one to see its partners. */
function enginePane(page, engine) {
  const left = el("div", {}), right = el("div", {});
  const byModule = new Map();
  const paths = (layer) => [...new Set(layer.nodes.map((n) => { const i = page.file.last.named(n); return i < 0 ? "" : page.file.last.node(i).path.join(".") || "(model)"; }))].filter(Boolean);
  const rows = engine.layers.map((layer) => {
    const { differs } = layer;
    const row = el("div", { class: `row${differs ? " differs" : ""}`, tabindex: 0, role: "button", onclick: () => pick(layer), onkeydown: (e) => { if (e.key === "Enter") pick(layer); } },
      el("strong", {}, layer.kind), layer.ms !== null && layer.ms !== undefined ? ` ${figure(layer.ms, "ms")}` : "", el("br", {}), visible(layer.name, 80), differs ? el("div", { class: "warn" }, `predicted: ${layer.predicted}`) : layer.predicted ? el("div", { class: "about" }, "as predicted") : null);
    for (const path of paths(layer)) { if (!byModule.has(path)) byModule.set(path, []); byModule.get(path).push(layer); }
    return [layer, row];
  });
  const modules = [...byModule].map(([path, layers]) => [path, el("div", { class: "row", tabindex: 0, role: "button", onclick: () => pickModule(path), onkeydown: (e) => { if (e.key === "Enter") pickModule(path); } }, visible(path, 90), el("br", {}), `${layers.length} layer${layers.length === 1 ? "" : "s"}`)]);
  function light(layers, names) {
    let first = null;
    for (const [layer, row] of rows) { row.classList.toggle("on", layers.includes(layer)); }
    for (const [path, row] of modules) { row.classList.toggle("on", names.includes(path)); }
    for (const list of [rows, modules]) { first = list.find(([, row]) => row.classList.contains("on")); first?.[1].scrollIntoView({ block: "nearest" }); }
  }
  function pick(layer) {
    light([layer], paths(layer));
    page.highlight(layer.nodes);
  }
  function pickModule(path) {
    light(byModule.get(path), [path]);
    page.highlight(byModule.get(path).flatMap((l) => l.nodes));
  }
  left.append(...rows.map(([, row]) => row));
  right.append(...modules.map(([, row]) => row));
  const count = new Map();
  for (const layer of engine.layers) count.set(layer.kind, (count.get(layer.kind) || 0) + 1);
  const differing = rows.filter(([, row]) => row.classList.contains("differs")).length;
  return el("div", {}, el("h3", {}, visible(engine.title)), el("p", { class: "about" }, `${[...count].map(([kind, n]) => `${n} ${kind}`).join(", ")}; ${differing ? `${differing} not as predicted` : "none but what was predicted"}. Press a layer for its modules, or a module for its layers.`), el("div", { class: "engine" }, el("div", {}, el("h4", {}, `${rows.length} layers`), left), el("div", {}, el("h4", {}, `${modules.length} modules`), right)));
}

/** The modules and nodes in sight as a list of buttons: the graph for who cannot see it. */
function outline(page) {
  const { graph, scene } = page;
  const list = (m, depth) => el("ul", { class: "links" }, graph.modules[m].layers.flat().filter((e) => typeof e === "number" && scene.drawing.box.has(e)).slice(0, 400).map((item) => {
    const open = item < 0 && graph.open.has(-1 - item);
    const box = scene.drawing.box.get(item);
    return el("li", {}, el("button", { onclick: () => page.select(item, true), ondblclick: () => page.toggle(item) }, `${item < 0 ? (open ? "▾ " : "▸ ") : ""}${box.title} (${box.note})`), open && depth < 12 ? list(-1 - item, depth + 1) : null);
  }));
  return el("div", {}, el("p", { class: "about" }, "What the drawing shows, as a list."), list(0, 0));
}

function comparison(page) {
  const [first, ...others] = page.files;
  const totals = (file) => [...file.metrics.values()].filter((m) => m.kind === "number").map((m) => [m, file.last.folded(0, m.id)]);
  const head = el("tr", {}, el("th", {}, ""), page.files.map((f, i) => el("th", {}, `${"ABCDEFGH"[i]}: ${visible(f.data.title, 40)} · ${visible(f.data.target, 20)}`)));
  const rows = totals(first).map(([metric, value]) => el("tr", {}, el("td", {}, metric.title), el("td", { class: "number" }, figure(value, metric.unit)), others.map((f) => { const other = f.metrics.has(metric.id) ? f.last.folded(0, metric.id) : undefined; return el("td", { class: "number" }, `${figure(other, metric.unit)}${relative(value, other)}`); })));
  rows.push(el("tr", {}, el("td", {}, "nodes"), page.files.map((f) => el("td", { class: "number" }, `${f.last.under[0].filter((i) => f.last.shown(i, "after")).length}`))));
  const metric = page.scene.metric;
  const about = first.metrics.get(metric);
  const paths = [...new Set(page.files.flatMap((f) => f.last.modules.map((m) => m.path)))].filter((p) => p && p.split(".").length <= 3);
  const blocks = about?.fold === "sum" ? paths.map((path) => [path, page.files.map((f) => { const m = f.last.modules.findIndex((x) => x.path === path); return m < 0 || !f.metrics.has(metric) ? undefined : f.last.folded(m, metric); })]) : [];
  blocks.sort((a, b) => Math.abs((b[1][1] ?? 0) - (b[1][0] ?? 0)) - Math.abs((a[1][1] ?? 0) - (a[1][0] ?? 0)));
  const counts = page.scenes.slice(1).map((s) => { const c = { "=": 0, "~": 0, "+": 0, "-": 0 }; s.difference.forEach((state, item) => { if (item >= 0) c[state]++; }); return c; });
  return el("div", {}, el("h3", {}, "Comparison"),
    counts.map((c, i) => el("p", {}, `${"BCDEFGH"[i]} against A: `, el("span", { class: "added" }, `${c["+"]} only here`), ", ", el("span", { class: "removed" }, `${page.scenes[0].missing[i]} only in A`), ", ", el("span", { class: "changed" }, `${c["~"]} changed`), `, ${c["="]} the same`)),
    el("table", {}, el("thead", {}, head), el("tbody", {}, rows)),
    blocks.length ? [el("h4", {}, `${about.title} by module, largest difference first`), el("table", {}, el("tbody", {}, blocks.slice(0, 60).map(([path, values]) => el("tr", { class: "link", tabindex: 0, onclick: () => page.follow(path) }, el("td", {}, visible(path)), values.map((v, i) => el("td", { class: "number" }, `${figure(v, about.unit)}${i ? relative(values[0], v) : ""}`))))))] : null);
}

const relative = (a, b) => (typeof a === "number" && typeof b === "number" && a ? ` (${b >= a ? "+" : "−"}${Math.abs(100 * (b / a - 1)).toFixed(1)} %)` : "");
