// The viewer's modules without a browser: node's own test runner.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

const at = (name) => new URL(`../../../../vitc/explorer/viewer/${name}.js`, import.meta.url);
const { File, figure, shortOp, unpack, visible } = await import(at("model"));
const { arrange } = await import(at("geometry"));
const { inkOn, ramp, scale } = await import(at("colors"));
const { search } = await import(at("search"));

const data = JSON.parse(readFileSync(new URL("../golden/three_blocks.json", import.meta.url)));
const file = () => new File(structuredClone(data), { seconds: [] });
const names = (graph, mode = "diff") => [...Array(graph.count).keys()].filter((i) => graph.shown(i, mode)).map((i) => graph.node(i).name);

test("names are shown, not obeyed", () => {
  assert.equal(visible("a\u202eb\u0007\n"), "a\\u202eb\\u0007\\u000a");
  assert.equal(visible("x".repeat(10240)).length, 400);
  assert.equal(visible("<b>"), "<b>");
});

test("figures are short", () => {
  assert.equal(figure(12_340_000, "FLOP"), "12.3 MFLOP");
  assert.equal(figure(0.5, ""), "50 %");
  assert.equal(figure(0.01234, "ms"), "0.0123 ms");
  assert.equal(figure(undefined, "ms"), "–");
  assert.equal(figure("Infinity", "dB"), "Infinity");
});

test("operators are short", () => assert.deepEqual(["aten.add.Tensor", "vitc.quantize", "getitem", "MatMul"].map(shortOp), ["add", "quantize", "getitem", "MatMul"]));

test("a view shows its side of a pass", () => {
  const graph = file().last;
  assert.ok(names(graph, "before").includes("q0"));
  assert.ok(!names(graph, "before").includes("split0"));
  assert.ok(!names(graph, "after").includes("q0"));
  assert.equal(names(graph, "diff").length, names(graph, "before").length + names(graph, "after").length - 8);
});

test("modules add up what they hold", () => {
  const graph = file().last;
  assert.equal(graph.folded(0, "ms"), 0.75);
  assert.equal(graph.folded(graph.moduleAt("blocks.0"), "ms"), 0.75);
  assert.equal(graph.folded(graph.moduleAt("blocks.1"), "ms"), undefined);
  assert.equal(graph.folded(graph.moduleAt("blocks"), "change", "diff"), "changed");
});

test("what a node was is found by identity", () => {
  const { steps: [before, after] } = file();
  const i = after.named("sdpa1");
  assert.equal(before.node(before.at(after.node(i).id)).name, "sdpa1");
  assert.equal(after.node(i, true).inputs.length, 3);
});

for (const mode of ["before", "after", "diff"]) {
  for (const open of ["closed", "all", "one"]) {
    test(`nothing overlaps and edges point down: ${mode}, ${open}`, () => {
      const graph = file().last;
      if (open === "all") graph.openAll();
      if (open === "one") graph.reveal(graph.named("sdpa1"));
      const { boxes, box, lines, width, height } = arrange(graph, mode);
      const inside = (a, b) => a.x >= b.x && a.y >= b.y && a.x + a.w <= b.x + b.w && a.y + a.h <= b.y + b.h;
      for (const a of boxes) {
        assert.ok(a.x >= -1e-6 && a.x + a.w <= width + 1e-6 && a.y + a.h <= height + 1e-6);
        for (const b of boxes) {
          if (a === b || inside(a, b) || inside(b, a)) continue;
          assert.ok(a.x + a.w <= b.x + 1e-6 || b.x + b.w <= a.x + 1e-6 || a.y + a.h <= b.y + 1e-6 || b.y + b.h <= a.y + 1e-6, `${a.item} and ${b.item}`);
        }
      }
      for (const line of lines) assert.ok(box.get(line.b).y >= box.get(line.a).y, `${line.a} → ${line.b}`);
      assert.ok(lines.length >= boxes.filter((b) => !b.open).length - 1);
    });
  }
}

test("opening a module changes what is drawn, not what there is", () => {
  const graph = file().last;
  const closed = arrange(graph, "after").boxes.length;
  graph.openAll();
  assert.ok(arrange(graph, "after").boxes.length > closed);
  assert.deepEqual(arrange(graph, "after"), arrange(graph, "after"));
});

test("search asks fields, words, and what panels say", () => {
  const f = file();
  f.notes.set("%add1", "rule-of-three");
  const graph = f.last;
  const found = (query, mode = "after") => search(graph, query, mode).map((i) => graph.node(i).name);
  assert.deepEqual(found("op:linear module:blocks.1"), ["linear_default1"]);
  assert.deepEqual(found("changed:removed blocks.2", "diff"), ["q2", "k2", "v2"]);
  assert.deepEqual(found("rule-of-three"), ["add1"]);
  assert.deepEqual(found("shape:[2,4] op:split").length, 3);
  assert.deepEqual(found("dtype:f16"), []);
  assert.deepEqual(found(""), []);
});

test("colours: the ramp's ends, ink that reads, a scale that knows its limits", () => {
  assert.equal(ramp(0), "#00204d");
  assert.equal(ramp(1), "#ffea46");
  assert.equal(inkOn("#00204d"), "#ffffff");
  assert.equal(inkOn("#ffea46"), "#111111");
  const graph = file().last;
  assert.deepEqual([scale(graph, "ms", "after").low, scale(graph, "ms", "after").high], [0, 0.75]);
  assert.equal(scale(graph, "change", "diff").color("removed"), "#d55e00");
});

test("packed data comes back", async () => {
  const { deflateRawSync } = await import("node:zlib");
  assert.deepEqual(await unpack(deflateRawSync('{"a":"ü"}').toString("base64")), { a: "ü" });
});
