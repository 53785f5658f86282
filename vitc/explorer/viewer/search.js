import { shortOp } from "./model.js";

// Words are looked for everywhere; op:, module:, dtype:, shape:, pass:, changed: and any metric's name ask one thing.

/** The nodes of a graph that a query means, in order. */
export function search(graph, query, mode) {
  const terms = query.toLowerCase().match(/\S+:"[^"]*"|\S+/g) || [];
  if (!terms.length) return [];
  const tests = terms.map((term) => testOf(graph, term));
  const found = [];
  for (let i = 0; i < graph.count; i++) if (graph.shown(i, mode) && tests.every((test) => test(i))) found.push(i);
  return found;
}

function testOf(graph, term) {
  const cut = term.indexOf(":");
  const field = cut > 0 ? term.slice(0, cut) : "";
  const wanted = term.slice(cut + 1).replaceAll('"', "");
  const has = (text) => String(text ?? "").toLowerCase().includes(wanted);
  const node = (i) => graph.node(i);
  switch (field) {
    case "op": return (i) => has(node(i).op);
    case "module": return (i) => has(node(i).path.join("."));
    case "dtype": return (i) => node(i).type.toLowerCase().split("[")[0] === wanted;
    case "shape": return (i) => has(node(i).type.slice(node(i).type.indexOf("[")).replaceAll(" ", ""));
    case "pass": return (i) => has(node(i).made_by);
    case "changed": return (i) => graph.state[i] !== "=" && has(graph.value(i, "change"));
  }
  if (graph.file.metrics.has(field)) return (i) => has(graph.value(i, field));
  const whole = term.replaceAll('"', "");
  return (i) => {
    const n = node(i);
    const notes = `${graph.file.notes.get(`%${n.name}`) || ""}`;
    return [n.name, n.op, shortOp(n.op), n.path.join("."), n.type, n.made_by, notes].some((text) => String(text ?? "").toLowerCase().includes(whole));
  };
}
