// Colours that stay apart for colour-blind eyes: cividis for figures, Okabe and Ito's eight for words.

const CIVIDIS = ["#00204d", "#00336f", "#39486b", "#575d6d", "#707173", "#8a8779", "#a69d75", "#c4b56c", "#e4cf5b", "#ffea46"];
const WORDS = ["#56b4e9", "#e69f00", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"];
const KNOWN = {
  same: "", changed: "#e69f00", added: "#009e73", removed: "#d55e00",
  good: "#56b4e9", note: "#f0e442", warning: "#e69f00", error: "#d55e00",
  "as predicted": "#56b4e9", "not predicted": "#b8b8b8", differs: "#d55e00",
  fp32: "#e69f00", fp16: "#56b4e9", "int8+fp16": "#0072b2", int8: "#009e73",
  fused: "#b8b8b8", launch: "#f0e442", memory: "#56b4e9", compute: "#d55e00",
};

export function ramp(share) {
  const at = Math.max(0, Math.min(1, share)) * (CIVIDIS.length - 1);
  const i = Math.min(CIVIDIS.length - 2, Math.floor(at)), t = at - i;
  const part = (hex, k) => parseInt(hex.slice(1 + 2 * k, 3 + 2 * k), 16);
  const mixed = [0, 1, 2].map((k) => Math.round(part(CIVIDIS[i], k) * (1 - t) + part(CIVIDIS[i + 1], k) * t));
  return `#${mixed.map((c) => c.toString(16).padStart(2, "0")).join("")}`;
}

/** Black or white, whichever reads better on a colour. */
export function inkOn(hex) {
  const [r, g, b] = [0, 1, 2].map((k) => parseInt(hex.slice(1 + 2 * k, 3 + 2 * k), 16));
  return 0.299 * r + 0.587 * g + 0.114 * b > 140 ? "#111111" : "#ffffff";
}

/** What a metric's values of a graph become: {color(value), legend: [[colour, text]…] or a range}. */
export function scale(graph, metric, mode) {
  const about = graph.file.metrics.get(metric);
  if (about.kind === "words") {
    const color = (word) => (word in KNOWN ? KNOWN[word] : WORDS[Math.max(0, about.words.indexOf(word)) % WORDS.length]);
    return { about, color, words: about.words };
  }
  let low = Infinity, high = -Infinity;
  for (let i = 0; i < graph.count; i++) {
    const value = graph.shown(i, mode) ? graph.value(i, metric, mode) : undefined;
    if (typeof value === "number") { low = Math.min(low, value); high = Math.max(high, value); }
  }
  // Closed modules add up: they share the ramp, whose end is the largest thing in sight.
  graph.modules.forEach((_, m) => {
    if (about.fold !== "sum" || graph.open.has(m) || !isVisible(graph, m)) return;
    const value = graph.folded(m, metric, mode);
    if (typeof value === "number") high = Math.max(high, value);
  });
  if (about.fold === "sum") low = 0;
  if (low > high) [low, high] = [0, 0];
  const span = high - low || 1;
  const worseIsLess = about.unit === "dB";
  return { about, low, high, worseIsLess, color: (value) => (typeof value === "number" ? ramp(worseIsLess ? (high - value) / span : (value - low) / span) : "") };
}

function isVisible(graph, m) {
  for (let p = graph.modules[m].parent; p >= 0; p = graph.modules[p].parent) if (!graph.open.has(p)) return false;
  return true;
}
