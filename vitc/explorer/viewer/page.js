import { File, figure, readFile, unpack, visible } from "./model.js";
import { Scene } from "./scene.js";
import { search } from "./search.js";
import { el, legend } from "./plots.js";
import { deviationBefore, nodeText, tabs } from "./panels.js";

// The page: its state, its keys, and the address that brings one back to it.

const KEYS = [
  ["j / k", "next, previous pass"], ["a  b  d", "the graph after, before, with the difference"], ["/", "search; Enter goes on to the next"],
  ["n / p", "next, previous change"], ["↑ ↓ ← →", "move the selection"], ["Enter", "open or close the selected module"], ["o / c", "open all, close all"],
  ["f", "fit"], ["+ / −", "zoom"], ["g", "next colour"], ["[ / ]", "previous, next tab"], ["y", "copy the selected node's text"], ["t", "light or dark"], ["Esc", "clear"], ["?", "this list"],
];
const QUIET_RUN = 3;

class Page {
  constructor(root, files) {
    this.root = root;
    this.files = files;
    this.step = files[0].steps.length - 1;
    this.tab = "overview";
    this.query = "";
    this.unfolded = new Set(); // runs of quiet passes that are shown
    this.colored = { plain: files[0].metrics.has("ms") ? "ms" : "change", diff: "change" }; // by what, in which view
    this.scenes = [];
    this.build();
    this.restore();
    window.addEventListener("hashchange", () => { if (location.hash !== this.hash) this.restore(); });
  }

  get file() { return this.files[0]; }
  get scene() { return this.scenes[0]; }
  get graph() { return this.scene.graph; }

  // --- building ----------------------------------------------------------------------------------------------------

  build() {
    const { file } = this;
    this.views = el("main", {});
    this.passes = el("nav", { class: "passes", "aria-label": "passes" });
    this.tablist = el("div", { role: "tablist", "aria-label": "panels" });
    this.panel = el("div", { role: "tabpanel", tabindex: 0, "aria-label": "panel" });
    this.live = el("div", { class: "sr", "aria-live": "polite" });
    this.results = el("div", { class: "results", hidden: true });
    this.modes = el("div", { class: "segments", role: "group", "aria-label": "view" }, [["before", "Before"], ["after", "After"], ["diff", "Diff"]].map(([mode, title]) => el("button", { "data-mode": mode, onclick: () => this.setMode(mode) }, title)));
    this.colors = el("select", { "aria-label": "colour by", onchange: () => this.setMetric(this.colors.value) }, [...file.metrics.values()].map((m) => el("option", { value: m.id }, m.title)));
    this.find = el("input", { type: "search", placeholder: "Search  /   op:linear dtype:i8 lint:warning", "aria-label": "search", oninput: () => this.search(this.find.value), onkeydown: (e) => this.searchKey(e) });
    const header = el("header", {}, el("h1", { title: visible(file.data.title, 200) }, visible(file.data.title, 120)), el("span", {}, visible(file.data.target, 40)), this.modes,
      el("label", {}, "Colour ", this.colors), el("button", { onclick: () => this.toggleAll(true), title: "open all (o)" }, "Open all"), el("button", { onclick: () => this.toggleAll(false), title: "close all (c)" }, "Close all"), el("button", { onclick: () => this.fit(), title: "fit (f)" }, "Fit"),
      el("span", { class: "grow" }), this.find, el("button", { onclick: () => this.theme(), title: "light or dark (t)", "aria-label": "light or dark" }, "◐"), el("button", { onclick: () => this.help.showModal(), "aria-label": "keys" }, "?"));
    this.help = el("dialog", { "aria-label": "keys" }, el("h2", {}, "Keys"), el("dl", {}, KEYS.map(([key, text]) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, text)])), el("p", {}, "Drop a second explorer file onto the page to compare."), el("button", { onclick: () => this.help.close() }, "Close"));
    this.root.replaceChildren(header, this.passes, this.views, el("aside", {}, this.tablist, this.panel), this.live, this.results, this.help);
    this.makeScenes();
    document.addEventListener("keydown", (e) => this.key(e));
    window.addEventListener("resize", () => this.scenes.forEach((s) => s.invalidate()));
    this.listenForFiles();
  }

  makeScenes() {
    this.scenes = this.files.map((file, i) => {
      const canvas = el("canvas", { class: "graph", tabindex: 0, role: "application", "aria-label": `graph of ${visible(file.data.title, 80)}; arrow keys move the selection, Enter opens a module; the tab Outline lists the same` });
      const label = el("div", { class: "label" });
      const minimap = el("canvas", { class: "minimap", "aria-hidden": "true" });
      const key = el("div", { class: "legend", role: "note", "aria-label": "legend" });
      this.views.append(el("div", { class: "view" }, canvas, label, i === 0 ? key : null, minimap));
      const scene = new Scene(canvas, minimap);
      Object.assign(scene, { label, key, difference: new Map() });
      scene.onDraw = (view) => scene.drawMapView(view);
      this.mouse(scene);
      return scene;
    });
  }

  mouse(scene) {
    const { canvas, minimap } = scene;
    let from = null, moved = false;
    canvas.addEventListener("pointerdown", (e) => { from = [e.clientX, e.clientY]; moved = false; canvas.setPointerCapture(e.pointerId); });
    canvas.addEventListener("pointermove", (e) => {
      if (!from) return;
      const [dx, dy] = [e.clientX - from[0], e.clientY - from[1]];
      if (!moved && Math.hypot(dx, dy) < 4) return;
      moved = true;
      from = [e.clientX, e.clientY];
      this.scenes.forEach((s) => s === scene || this.files.length > 1 ? s.pan(dx, dy) : 0);
    });
    canvas.addEventListener("pointerup", (e) => {
      if (!moved && from) this.select(scene.hit(e.offsetX, e.offsetY), false, scene);
      from = null;
      this.remember();
    });
    canvas.addEventListener("dblclick", (e) => { const item = scene.hit(e.offsetX, e.offsetY); if (item !== null) this.toggle(item, scene); });
    canvas.addEventListener("wheel", (e) => {
      e.preventDefault();
      if (e.ctrlKey || e.metaKey || !e.shiftKey && Math.abs(e.deltaY) > Math.abs(e.deltaX) && e.deltaMode === 0 && Number.isInteger(e.deltaY) && Math.abs(e.deltaY) >= 50) scene.zoom(Math.exp(-e.deltaY * 0.0022), e.offsetX, e.offsetY);
      else scene.pan(-e.deltaX, -e.deltaY);
    }, { passive: false });
    const jump = (e) => {
      if (!scene.mapScale || e.buttons !== 1) return;
      const { k, x, y } = scene.mapScale, { w, h } = scene.size();
      scene.camera.x = w / 2 - ((e.offsetX - x) / k) * scene.camera.k;
      scene.camera.y = h / 2 - ((e.offsetY - y) / k) * scene.camera.k;
      scene.invalidate();
    };
    minimap.addEventListener("pointerdown", jump);
    minimap.addEventListener("pointermove", jump);
  }

  listenForFiles() {
    const veil = el("div", { class: "drop", hidden: true }, "Drop to compare");
    document.body.append(veil);
    document.addEventListener("dragover", (e) => { e.preventDefault(); veil.hidden = false; });
    document.addEventListener("dragleave", (e) => { if (!e.relatedTarget) veil.hidden = true; });
    document.addEventListener("drop", async (e) => { e.preventDefault(); veil.hidden = true; for (const file of e.dataTransfer.files) await this.compareWith(await file.text()); });
  }

  /** Another explorer file's text joins the comparison. */
  async compareWith(text) {
    const parts = await readFile(text);
    if (!parts) { this.say("that is no explorer file"); return; }
    const [data, run] = parts;
    for (const each of data.files || [data]) this.files.push(new File(each, run));
    this.views.replaceChildren();
    this.makeScenes();
    this.tab = "compare";
    this.go(this.file.steps.length - 1, "after");
    this.setMetric("change");
    this.fit();
  }

  // --- what is shown ------------------------------------------------------------------------------------------------

  /** A step's graph in a view; `item`: what is selected there. */
  go(step, mode = this.scene.mode, item = null) {
    this.step = Math.max(0, Math.min(this.file.steps.length - 1, step));
    const graph = this.file.steps[this.step];
    if (mode === "diff" && graph.number > 0 && item === null) this.openChange(graph);
    this.scene.selected = item;
    if (item !== null) graph.reveal(item);
    this.files.forEach((file, i) => {
      const shown = i ? file.last : graph;
      if (this.files.length > 1 && i) this.openAlike(shown, graph);
      const real = shown.number === 0 ? "after" : i ? "after" : mode;
      this.scenes[i].show(shown, { mode: real, metric: this.colored[real === "diff" ? "diff" : "plain"] });
      this.scenes[i].label.textContent = this.files.length > 1 ? `${"ABCDEFGH"[i]}: ${visible(file.data.title, 60)}, ${visible(shown.step.title, 60)}` : `${this.step}: ${visible(shown.step.title, 100)}`;
    });
    if (this.files.length > 1) this.matchFiles();
    this.search(this.query);
    const change = mode === "diff" && item === null ? graph.step.rewrites[0]?.places[0]?.nodes[0] : null;
    if (item !== null) this.scene.centre(item);
    else if (change !== null && change !== undefined && this.scene.drawing.box.has(change)) { this.scene.fitAll(); this.scene.centre(change, 0.7); } else this.scene.fitAll();
    this.scenes.slice(1).forEach((s) => s.fitAll());
    if (mode === "diff" && this.tab === "overview") this.tab = "changes";
    this.refresh();
    this.say(`pass ${this.step}, ${graph.step.title}, ${this.scene.mode}`);
  }

  /** What did not change folds away; the first place of each kind of change is open. */
  openChange(graph) {
    if (graph.touched) return;
    graph.touched = true;
    graph.open = new Set([0]);
    for (const rewrite of graph.step.rewrites.slice(0, 3)) if (rewrite.places.length) for (const i of rewrite.places[0].nodes) graph.reveal(i);
  }

  openAlike(graph, other) {
    const open = new Set([...other.open].map((m) => other.modules[m].path));
    graph.open = new Set([0, ...graph.modules.map((_, m) => m).filter((m) => open.has(graph.modules[m].path))]);
  }

  /** The nodes of two files are the same if module, operator and turn among those alike are. */
  matchFiles() {
    const keys = (graph) => {
      const turns = new Map(), found = new Map();
      for (let i = 0; i < graph.count; i++) {
        if (!graph.shown(i, "after")) continue;
        const node = graph.node(i);
        const alike = `${node.path.join(".")}|${node.op}`;
        const turn = turns.get(alike) || 0;
        turns.set(alike, turn + 1);
        found.set(`${alike}|${turn}`, i);
      }
      return found;
    };
    const [a, ...others] = this.scenes;
    const mine = keys(a.graph);
    a.override = new Map(); a.missing = [];
    for (const scene of others) {
      const theirs = keys(scene.graph);
      scene.difference = new Map(); scene.partner = new Map();
      let missing = 0;
      for (const [key, j] of theirs) {
        const i = mine.get(key);
        const same = i !== undefined && a.graph.node(i).type === scene.graph.node(j).type && a.graph.node(i).options === scene.graph.node(j).options && weightsOf(a.graph.node(i)) === weightsOf(scene.graph.node(j));
        scene.difference.set(j, i === undefined ? "+" : same ? "=" : "~");
        if (i !== undefined) { scene.partner.set(i, j); if (!same) a.override.set(i, "~"); }
      }
      for (const [key, i] of mine) if (!theirs.has(key)) { a.override.set(i, "-"); missing++; }
      a.missing.push(missing);
      scene.override = withModules(scene.graph, scene.difference);
      scene.paint();
    }
    a.override = withModules(a.graph, a.override);
    a.paint();
  }

  setMode(mode) { this.go(this.step, mode, this.scene.selected !== null && this.scene.selected >= 0 && this.graph.shown(this.scene.selected, mode) ? this.scene.selected : null); }

  setMetric(metric) {
    this.colored[this.scene.mode === "diff" ? "diff" : "plain"] = metric;
    for (const scene of this.scenes) { scene.metric = scene.graph.file.metrics.has(metric) ? metric : "change"; scene.paint(); }
    this.refresh();
  }

  select(item, centre = false, scene = this.scene) {
    const graph = scene.graph;
    if (item !== null && item !== undefined && centre) {
      const before = graph.open.size;
      graph.reveal(item);
      if (graph.open.size !== before) scene.layOut();
    }
    scene.selected = item ?? null;
    if (scene !== this.scene && item !== null && item >= 0) { // the partner in the first file
      const partner = [...(scene.partner || [])].find(([, j]) => j === item);
      if (partner) { this.select(partner[0], true); return; }
    }
    if (scene === this.scene && item !== null && item >= 0) for (const other of this.scenes.slice(1)) {
      const j = other.partner?.get(item);
      if (j === undefined) continue;
      const size = other.graph.open.size;
      other.graph.reveal(j);
      if (other.graph.open.size !== size) { other.layOut(); }
      other.selected = j; other.centre(j);
    }
    if (centre && item !== null) scene.centre(item);
    scene.invalidate();
    if (item !== null && !["compare", "outline"].includes(this.tab)) this.tab = "node";
    this.refresh();
    if (item !== null && scene.drawing.box.has(item)) this.say(`${scene.drawing.box.get(item).title}, ${scene.drawing.box.get(item).note}`);
  }

  /** To what a panel's row is about: a module's path, or %node. Panels speak of the last step. */
  follow(ref) {
    if (!ref) return;
    const item = ref.startsWith("%") ? this.file.last.named(ref.slice(1)) : -1 - this.file.last.moduleAt(ref);
    const keep = this.tab;
    if (item === -1 && ref.startsWith("%")) { this.say(`${ref} is not in the last graph`); return; }
    if (this.step !== this.file.steps.length - 1) this.go(this.file.steps.length - 1, "after");
    this.select(item, true);
    this.tab = keep;
    this.refresh();
  }

  showLast(item) { this.go(this.file.steps.length - 1, "after"); this.select(item, true); }

  highlight(names) {
    if (this.step !== this.file.steps.length - 1) this.go(this.file.steps.length - 1, "after");
    const items = names.map((name) => this.graph.named(name)).filter((i) => i >= 0);
    for (const i of items) this.graph.reveal(i);
    this.scene.layOut();
    this.scene.matches = items.length ? new Set(items) : null;
    if (items.length) this.scene.centre(items[0]);
  }

  toggle(item, scene = this.scene) {
    if (item === null || item >= 0) return;
    const open = scene.graph.open;
    if (open.has(-1 - item)) open.delete(-1 - item); else open.add(-1 - item);
    const box = scene.drawing.box.get(item);
    const at = box && [box.x * scene.camera.k + scene.camera.x, box.y * scene.camera.k + scene.camera.y];
    scene.layOut();
    const now = scene.drawing.box.get(item);
    if (at && now) { scene.camera.x = at[0] - now.x * scene.camera.k; scene.camera.y = at[1] - now.y * scene.camera.k; } // it stays under the pointer
    for (const other of this.scenes) if (other !== scene) { this.openAlike(other.graph, scene.graph); other.layOut(); other.paint(); }
    this.refresh();
  }

  toggleAll(open) {
    for (const scene of this.scenes) {
      if (open) scene.graph.openAll(); else scene.graph.open = new Set([0]);
      scene.layOut();
    }
    this.fit();
    this.refresh();
  }

  fit() { this.scenes.forEach((s) => s.fitAll()); this.remember(); }

  /** The passes after which the outputs deviate ten times more than before, and more than rounding does. */
  jumps() {
    const { steps } = this.file.data;
    return steps.map((_, i) => i).filter((i) => i > 0 && steps[i].deviation > 1e-4 && steps[i].deviation > 10 * Math.max(deviationBefore(steps, i), 1e-6));
  }

  layersOf(name) { return this.file.data.engines.flatMap((engine) => engine.layers.filter((layer) => layer.nodes.includes(name))); }

  // --- the page around the graph ------------------------------------------------------------------------------------

  refresh() {
    this.scene.key.replaceChildren(legend(this.scene));
    for (const button of this.modes.children) {
      button.setAttribute("aria-pressed", String(button.dataset.mode === this.scene.mode));
      button.disabled = this.step === 0 && button.dataset.mode !== "after";
    }
    this.colors.value = this.scene.metric;
    this.listPasses();
    const found = tabs(this);
    if (!found.has(this.tab)) this.tab = "overview";
    this.tabIds = [...found.keys()];
    this.tablist.replaceChildren(...[...found].map(([id, [title]]) => el("button", { role: "tab", id: `tab-${id}`, "aria-selected": String(id === this.tab), tabindex: id === this.tab ? 0 : -1, onclick: () => { this.tab = id; this.refresh(); } }, visible(title, 40))));
    const top = this.shownTab === this.tab ? this.panel.scrollTop : 0;
    this.panel.replaceChildren(found.get(this.tab)[1](this));
    this.panel.scrollTop = top;
    this.shownTab = this.tab;
    this.remember();
  }

  listPasses() {
    const { data, run } = this.file;
    const jumps = new Set(this.jumps());
    const quiet = (i) => i > 0 && i < data.steps.length - 1 && !data.steps[i].created && !data.steps[i].erased && !data.steps[i].altered && !jumps.has(i) && !data.steps[i].error;
    const list = el("ol", {});
    for (let i = 0; i < data.steps.length; i++) {
      let end = i;
      while (quiet(end)) end++;
      if (end - i >= QUIET_RUN && !this.unfolded.has(i) && !(this.step >= i && this.step < end)) {
        const start = i;
        list.append(el("li", { class: "quiet" }, el("button", { onclick: () => { this.unfolded.add(start); this.refresh(); } }, el("span", { class: "name" }, `▸ ${end - i} passes that changed nothing`), el("span", { class: "what" }, data.steps.slice(i, end).map((s) => visible(s.title, 30)).join(", ")))));
        i = end - 1;
        continue;
      }
      const step = data.steps[i];
      const seconds = run.seconds?.[i];
      list.append(el("li", { class: quiet(i) ? "quiet" : "" }, el("button", { "data-step": i, "aria-current": String(i === this.step), onclick: () => this.go(i, i ? "diff" : "after") },
        el("span", { class: "name" }, `${i} ${visible(step.title, 160)}`),
        step.what ? el("span", { class: "what" }, visible(step.what, 240)) : null,
        el("span", { class: "row" }, i === 0 ? el("span", {}, `${step.nodes.length} nodes`) : [el("span", { class: "added" }, `+${step.created}`), el("span", { class: "removed" }, `−${step.erased}`), el("span", { class: "changed" }, `~${step.altered}`)],
          step.deviation !== undefined ? el("span", { class: jumps.has(i) ? "warn" : "", title: "the outputs' deviation from those of the captured model" }, `${jumps.has(i) ? "⚠ " : ""}Δ ${figure(step.deviation, "")}`) : null,
          typeof seconds === "number" ? el("span", { class: "time" }, `${seconds.toFixed(2)} s`) : null),
        step.error ? el("span", { class: "warn" }, visible(step.error, 300)) : null)));
    }
    const top = this.passes.scrollTop;
    this.passes.replaceChildren(el("h2", {}, "Passes"), list);
    this.passes.scrollTop = top;
  }

  search(query) {
    this.query = query;
    const found = search(this.graph, query, this.scene.mode);
    this.found = found;
    if (!query.trim()) { this.scene.matches = null; this.results.hidden = true; this.scene.invalidate(); return; }
    const shown = new Set();
    for (const i of found) for (let item = i; ; item = -1 - this.graph.home(item)) { shown.add(item); if (this.graph.home(item) < 0 || item === -1) break; }
    this.scene.matches = shown;
    this.results.hidden = document.activeElement !== this.find;
    this.results.replaceChildren(el("p", { class: "about" }, `${found.length} node${found.length === 1 ? "" : "s"}`), el("ul", { class: "links" }, found.slice(0, 60).map((i) => el("li", {}, el("button", { onclick: () => { this.select(i, true); this.results.hidden = true; } }, `${visible(this.graph.node(i).path.join("."), 60)} · ${visible(this.graph.node(i).name, 40)} · ${visible(this.graph.node(i).type, 40)}`)))));
    this.scene.invalidate();
    this.remember();
  }

  searchKey(event) {
    if (event.key === "Escape") { this.find.value = ""; this.search(""); this.find.blur(); this.results.hidden = true; }
    if (event.key === "Enter" && this.found?.length) {
      const at = this.found.indexOf(this.scene.selected);
      this.select(this.found[(at + 1) % this.found.length], true);
      this.find.focus();
    }
    event.stopPropagation();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || this.help.open) return;
    const target = event.target;
    if (["INPUT", "SELECT", "TEXTAREA"].includes(target.tagName)) return;
    const onCanvas = target.tagName === "CANVAS" || target === document.body;
    const acts = {
      j: () => this.go(this.step + 1, "diff"), k: () => this.go(this.step - 1, this.step > 1 ? "diff" : "after"),
      a: () => this.setMode("after"), b: () => this.setMode("before"), d: () => this.setMode("diff"),
      "/": () => this.find.focus(), "?": () => this.help.showModal(), f: () => this.fit(), o: () => this.toggleAll(true), c: () => this.toggleAll(false),
      "+": () => this.scene.zoom(1.25), "=": () => this.scene.zoom(1.25), "-": () => this.scene.zoom(0.8), t: () => this.theme(),
      g: () => { const ids = [...this.file.metrics.keys()]; this.setMetric(ids[(ids.indexOf(this.scene.metric) + 1) % ids.length]); },
      "[": () => this.turnTab(-1), "]": () => this.turnTab(1), y: () => this.scene.selected >= 0 && this.scene.selected !== null && this.copy(nodeText(this, this.graph, this.scene.selected)),
      n: () => this.nextChange(1), p: () => this.nextChange(-1),
      Escape: () => { this.find.value = ""; this.search(""); this.select(null); },
    };
    if (onCanvas) Object.assign(acts, { ArrowUp: () => this.move(-1), ArrowDown: () => this.move(1), ArrowLeft: () => this.moveAside(-1), ArrowRight: () => this.moveAside(1), Enter: () => this.toggle(this.scene.selected) });
    const act = acts[event.key];
    if (act) { event.preventDefault(); act(); }
  }

  turnTab(by) {
    this.tab = this.tabIds[(this.tabIds.indexOf(this.tab) + by + this.tabIds.length) % this.tabIds.length];
    this.refresh();
  }

  /** Along the edges: to the first thing that reads the selection, or that it reads. */
  move(by) {
    const { drawing, selected } = this.scene;
    if (selected === null) { const top = this.scene.byTop[0]; if (top) this.select(top.item, true); return; }
    const line = drawing.lines.find((l) => (by > 0 ? l.a : l.b) === selected);
    if (line) { this.select(by > 0 ? line.b : line.a, true); return; }
    const closed = this.scene.byTop, at = closed.findIndex((box) => box.item === selected);
    const next = closed[at + by];
    if (next) this.select(next.item, true);
  }

  moveAside(by) {
    const box = this.scene.drawing.box.get(this.scene.selected);
    if (!box) return;
    const beside = this.scene.byTop.filter((other) => other !== box && Math.abs(other.y + other.h / 2 - box.y - box.h / 2) < 40 && Math.sign(other.x - box.x) === by).sort((a, b) => by * (a.x - b.x))[0];
    if (beside) this.select(beside.item, true);
    else if (by < 0 && this.graph.home(this.scene.selected) > 0) this.select(-1 - this.graph.home(this.scene.selected), true);
  }

  nextChange(by) {
    const places = this.graph.step.rewrites.flatMap((r) => r.places.map((place) => place.nodes[0]));
    if (!places.length) return;
    const at = places.indexOf(this.scene.selected);
    if (this.scene.mode !== "diff") this.go(this.step, "diff");
    this.select(places[(at + by + places.length) % places.length], true);
  }

  theme(wanted) {
    const dark = wanted ? wanted === "dark" : document.documentElement.dataset.theme !== "dark";
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    this.scenes.forEach((s) => s.graph && s.paint());
    if (this.scene.graph) this.refresh();
  }

  async copy(text) {
    this.copied = text;
    try { await navigator.clipboard.writeText(text); } catch {
      const area = el("textarea", { class: "sr" });
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy"); // pages opened from disk have no clipboard of their own
      area.remove();
    }
    this.say("copied");
  }

  say(text) { this.live.textContent = visible(text, 300); }

  // --- the address ---------------------------------------------------------------------------------------------------

  /** Everything that one sees, in the address: to be sent to a colleague who has the same file. */
  remember() {
    if (!this.graph || this.restoring) return;
    const { scene, graph } = this;
    const state = new URLSearchParams({ s: this.step, v: scene.mode, c: scene.metric, p: this.tab });
    if (scene.selected !== null) state.set("n", scene.selected >= 0 ? `%${graph.node(scene.selected).name}` : graph.modules[-1 - scene.selected].path);
    if (this.query) state.set("q", this.query);
    const open = [...graph.open].filter((m) => m > 0).map((m) => graph.modules[m].path);
    if (open.length && open.length < 40) state.set("o", open.join(" "));
    else if (open.length) state.set("o", "*");
    this.hash = `#${state}`;
    if (location.hash !== this.hash) location.replace(this.hash); // history.replaceState is refused to files
  }

  restore() {
    const state = new URLSearchParams(location.hash.slice(1));
    this.restoring = true;
    const step = Number.parseInt(state.get("s") ?? this.file.steps.length - 1, 10) || 0;
    const graph = this.file.steps[Math.max(0, Math.min(this.file.steps.length - 1, step))];
    if (state.get("o") === "*") graph.openAll();
    else if (state.has("o")) graph.open = new Set([0, ...state.get("o").split(" ").map((path) => graph.modules.findIndex((m) => m.path === path)).filter((m) => m > 0)]);
    if (state.has("o")) graph.touched = true;
    const chosen = state.get("n");
    const item = chosen === null ? null : chosen.startsWith("%") ? graph.named(chosen.slice(1)) : -1 - graph.moduleAt(chosen);
    if (this.file.metrics.has(state.get("c"))) this.colored[state.get("v") === "diff" ? "diff" : "plain"] = state.get("c");
    else if (this.files.length > 1) this.colored.plain = "change";
    this.tab = state.get("p") || (this.files.length > 1 ? "compare" : "overview");
    this.query = state.get("q") || "";
    this.find.value = this.query;
    const mode = ["before", "after", "diff"].includes(state.get("v")) ? state.get("v") : "after";
    const tab = this.tab;
    this.go(step, mode, item === -1 && chosen?.startsWith("%") ? null : item);
    this.tab = tab;
    this.restoring = false;
    this.refresh();
  }

  /** Pans and zooms for a while and counts the frames: {fps, slowest and median ms between two, median ms of drawing}. */
  frames(ms = 2000) {
    const { scene } = this;
    scene.fitWhole();
    return new Promise((done) => {
      const began = performance.now();
      let last = began, count = 0, slowest = 0;
      const times = [], draws = [];
      const tick = (now) => {
        if (count) { slowest = Math.max(slowest, now - last); times.push(now - last); }
        last = now; count++;
        const t = (now - began) / ms;
        if (t >= 1) { times.sort((a, b) => a - b); draws.sort((a, b) => a - b); done({ fps: Math.round((1000 * (count - 1)) / (now - began)), slowest: Math.round(slowest), median: times[times.length >> 1], draw: draws[draws.length >> 1], boxes: scene.drawing.boxes.length }); return; }
        scene.pan(Math.sin(t * 9) * 14, -18);
        scene.zoom(t < 0.5 ? 1.025 : 0.976);
        const start = performance.now();
        scene.draw();
        draws.push(performance.now() - start);
        requestAnimationFrame(tick);
      };
      requestAnimationFrame(tick);
    });
  }
}

const weightsOf = (node) => (node.weights || []).map(([, type, digest]) => `${type}${digest}`).join();

/** States of nodes, with those of the modules that hold them. */
function withModules(graph, states) {
  const all = new Map(states);
  graph.under.forEach((nodes, m) => {
    const found = new Set(nodes.filter((i) => graph.shown(i, "after")).map((i) => states.get(i) || "="));
    all.set(-1 - m, found.size === 1 ? [...found][0] : "~");
  });
  return all;
}

export async function start() {
  const root = document.getElementById("app");
  const began = performance.now();
  if (matchMedia("(prefers-color-scheme: dark)").matches) document.documentElement.dataset.theme = "dark";
  try {
    if (typeof DecompressionStream === "undefined") throw new Error("this browser is too old to unpack the data (it lacks DecompressionStream); the file's plain text summary can be read in any editor");
    const [data, run] = await Promise.all(["data", "run"].map((name) => unpack(document.getElementById(`vitc-${name}`).textContent)));
    const files = data.files ? data.files.map((each, i) => new File(each, run.files?.[i] || {})) : [new File(data, run)];
    window.vitc = new Page(root, files);
    window.vitc.loadMs = performance.now() - began;
  } catch (error) {
    root.replaceChildren(el("p", { class: "loading" }, `This file cannot be shown: ${error.message}`));
    throw error;
  }
}
if (typeof document !== "undefined") start();
