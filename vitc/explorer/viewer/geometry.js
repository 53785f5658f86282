// Coordinates from a layout and a state of folding. The layout says layers and order; sizes depend on what is open.

export const SIZE = { leaf: [172, 42], module: [204, 54], series: [236, 66], gapX: 18, gapY: 26, pad: 16, head: 26, lane: 12 };

/** {boxes, lines, width, height}: boxes in drawing order (open modules before what they hold). */
export function arrange(graph, mode) {
  const pairs = linksOf(graph);
  const shownModule = graph.modules.map((_, m) => graph.under[m].some((i) => graph.shown(i, mode)));
  const shown = (item) => (item >= 0 ? graph.shown(item, mode) : shownModule[-1 - item]);
  const placed = new Map(); // open module -> its inside

  function sizeOf(item) {
    if (item >= 0) return SIZE.leaf;
    const m = -1 - item;
    if (!graph.open.has(m)) return graph.modules[m].series ? SIZE.series : SIZE.module;
    const inside = placeInside(m);
    return [inside.width + 2 * SIZE.pad, inside.height + SIZE.head + SIZE.pad];
  }

  function placeInside(m) {
    if (placed.has(m)) return placed.get(m);
    const layers = graph.modules[m].layers.map((layer) => layer.filter((e) => typeof e === "string" || shown(e)))
      .map((layer) => (layer.some((e) => typeof e === "number") ? layer : []));
    const sizes = layers.map((layer) => layer.map((e) => (typeof e === "string" ? [SIZE.lane, 0] : sizeOf(e))));
    const xs = coordinates(layers, sizes, pairs[m]);
    const inside = { spots: new Map(), lanes: new Map(), width: 0, height: 0 };
    let y = 0, left = Infinity, right = -Infinity;
    layers.forEach((layer, n) => {
      if (!layer.length) return;
      const tall = Math.max(...sizes[n].map((s) => s[1]));
      layer.forEach((entry, i) => {
        const [w, h] = sizes[n][i];
        left = Math.min(left, xs[n][i] - w / 2); right = Math.max(right, xs[n][i] + w / 2);
        if (typeof entry === "number") inside.spots.set(entry, [xs[n][i] - w / 2, y + (tall - h) / 2, w, h]);
        else {
          if (!inside.lanes.has(entry)) inside.lanes.set(entry, []);
          inside.lanes.get(entry).push([n, xs[n][i], y, y + tall]);
        }
      });
      y += tall + SIZE.gapY;
    });
    inside.width = right > left ? right - left : 0;
    inside.height = Math.max(0, y - SIZE.gapY);
    inside.left = left > right ? 0 : left;
    placed.set(m, inside);
    return inside;
  }

  const boxes = [], box = new Map(), origin = new Map();
  function settle(m, x, y, depth) {
    const inside = placeInside(m);
    origin.set(m, [x - inside.left, y]);
    for (const [item, [bx, by, w, h]] of inside.spots) {
      const open = item < 0 && graph.open.has(-1 - item);
      const made = { item, x: x - inside.left + bx, y: y + by, w, h, depth, open };
      boxes.push(made); box.set(item, made);
      if (open) settle(-1 - item, made.x + SIZE.pad, made.y + SIZE.head, depth + 1);
    }
  }
  settle(0, 0, 0, 0);
  boxes.sort((a, b) => (b.open - a.open) || a.depth - b.depth || a.y - b.y);
  const root = placeInside(0);
  return { boxes, box, lines: route(graph, mode, box, placed, origin), width: root.width, height: root.height };
}

/** For each module, which entries of neighbouring layers belong together, and how strongly. */
function linksOf(graph) {
  if (graph.links) return graph.links;
  const links = graph.modules.map(() => new Map());
  const add = (m, n, a, b, weight) => links[m].set(`${n}|${a}|${b}`, [n, a, b, weight]);
  const has = graph.modules.map((module) => module.layers.map((layer) => new Set(layer)));
  graph.hasEntry = (m, n, entry) => has[m][n]?.has(entry) ?? false;
  const chain = (m, name, first, last, head, tail) => {
    if (first > last) return void (head !== null && tail !== null && add(m, first - 1, head, tail, 3));
    if (!graph.hasEntry(m, first, name)) return;
    if (head !== null) add(m, first - 1, head, name, 1);
    for (let n = first; n < last; n++) add(m, n, name, name, 8);
    if (tail !== null) add(m, last, name, tail, 1);
  };
  for (const edge of graph.edges) {
    if (edge.minor) continue;
    const [a, b] = [edge.up[0], edge.down[0]];
    chain(graph.home(a), `e${a}`, graph.level.get(a) + 1, graph.level.get(b) - 1, a, b);
    for (const item of edge.up.slice(1)) chain(graph.home(item), `o${item}`, graph.level.get(item) + 1, graph.modules[graph.home(item)].layers.length - 1, item, null);
    for (const item of edge.down.slice(1)) chain(graph.home(item), `i${edge.from}`, 0, graph.level.get(item) - 1, null, item);
  }
  graph.links = links.map((found) => [...found.values()]);
  return graph.links;
}

/** x of the centre of each entry: near its neighbours, in order, not overlapping. */
function coordinates(layers, sizes, pairs) {
  const xs = layers.map((layer, n) => {
    let x = 0;
    const out = layer.map((_, i) => { const c = x + sizes[n][i][0] / 2; x += sizes[n][i][0] + SIZE.gapX; return c; });
    return out.map((c) => c - (x - SIZE.gapX) / 2);
  });
  const where = layers.map((layer) => new Map(layer.map((e, i) => [e, i])));
  const below = layers.map(() => []), above = layers.map(() => []);
  for (const [n, a, b, weight] of pairs) {
    const i = where[n]?.get(a);
    let next = n + 1;
    while (next < layers.length && !layers[next].length) next++; // layers that this view leaves empty
    const j = where[next]?.get(b);
    if (i === undefined || j === undefined) continue;
    below[n].push([i, next, j, weight]); above[next].push([j, n, i, weight]);
  }
  const sweeps = layers.length > 2000 ? 4 : 10;
  for (let sweep = 0; sweep < sweeps; sweep++) {
    const order = [...layers.keys()];
    if (sweep % 2) order.reverse();
    for (const n of order) {
      const near = sweep % 2 ? below[n] : above[n];
      if (!near.length || !layers[n].length) continue;
      const total = xs[n].map(() => 0), weights = xs[n].map(() => 0);
      for (const [i, m, j, weight] of near) { total[i] += weight * xs[m][j]; weights[i] += weight; }
      xs[n] = spread(xs[n].map((x, i) => (weights[i] ? total[i] / weights[i] : x)), weights.map((w) => w || 0.05), sizes[n]);
    }
  }
  return xs;
}

/** The nearest places to those wanted that keep order and distance: pool adjacent violators. */
function spread(wanted, weights, sizes) {
  const offsets = [0];
  for (let i = 1; i < wanted.length; i++) offsets.push(offsets[i - 1] + (sizes[i - 1][0] + sizes[i][0]) / 2 + SIZE.gapX);
  const pools = [];
  wanted.forEach((x, i) => {
    pools.push([x - offsets[i], weights[i], 1]);
    while (pools.length > 1 && pools[pools.length - 2][0] > pools[pools.length - 1][0]) {
      const [b, a] = [pools.pop(), pools.pop()];
      pools.push([(a[0] * a[1] + b[0] * b[1]) / (a[1] + b[1]), a[1] + b[1], a[2] + b[2]]);
    }
  });
  return pools.flatMap(([x, , n]) => Array(n).fill(x)).map((x, i) => x + offsets[i]);
}

/** One line for each pair of visible boxes that an edge joins. */
function route(graph, mode, box, placed, origin) {
  const lines = new Map();
  const lane = (m, name, from, to, points) => {
    const [dx, dy] = origin.get(m);
    for (const [n, x, top, bottom] of placed.get(m).lanes.get(name) || []) {
      if (n >= from && n <= to) points.push([x + dx, top + dy], [x + dx, bottom + dy]);
    }
  };
  for (const edge of graph.edges) {
    if (edge.minor || !graph.shown(edge.from, mode) || !graph.shown(edge.to, mode)) continue;
    if (mode === "after" ? edge.side < 0 : mode === "before" ? edge.side > 0 : false) continue;
    const up = edge.up.filter((item) => box.has(item)), down = edge.down.filter((item) => box.has(item));
    const [a, b] = [up[up.length - 1], down[down.length - 1]];
    if (a === undefined || b === undefined || a === b) continue;
    const key = `${a}|${b}`;
    const known = lines.get(key);
    if (known) {
      if (known.side !== edge.side) known.side = 0;
      known.count++;
      continue;
    }
    const [A, B] = [box.get(a), box.get(b)];
    const points = [[A.x + A.w / 2, A.y + A.h]];
    for (const item of up.slice(1).reverse()) lane(graph.home(item), `o${item}`, graph.level.get(item) + 1, Infinity, points);
    lane(graph.home(up[0]), `e${up[0]}`, graph.level.get(up[0]) + 1, graph.level.get(down[0]) - 1, points);
    for (const item of down.slice(1)) lane(graph.home(item), `i${edge.from}`, 0, graph.level.get(item) - 1, points);
    points.push([B.x + B.w / 2, B.y]);
    const ys = points.map((p) => p[1]), xs = points.map((p) => p[0]);
    lines.set(key, { a, b, side: edge.side, count: 1, points, top: Math.min(...ys), bottom: Math.max(...ys), left: Math.min(...xs), right: Math.max(...xs) });
  }
  return [...lines.values()];
}
