"""Which spelling each CPU engine likes best: the figures behind docs/decisions/0030-cpu-engine.md.

    python benchmarks/cpu_engines.py                 ViT-B/16, FP32 and INT8, 2 threads
    python benchmarks/cpu_engines.py --attention     one attention alone, every spelling
    python benchmarks/cpu_engines.py --threads 1 --rounds 7 --batch 8

The model is made by hand, with random weights and activation ranges measured on 4 images: time does not
depend on either. All contenders are loaded in one process and take turns, forwards and backwards, each call
preceded by one that is not counted; CPU time is given beside wall time, because other work on the machine
lengthens the second only.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.inliner
import onnxruntime
import openvino
import openvino.opset13 as ov_ops
import torch
from onnx import TensorProto, helper, numpy_helper

from vitc.lowering.cpu.attention import use_multi_head_attention
from vitc.lowering.cpu.machine import int8_dot
from vitc.lowering.cpu.quantization import fold_weights, shift_to_unsigned
from vitc.lowering.onnx.functions import Signature, attention_function

WIDTH, HEADS, DEPTH, TOKENS = 768, 12, 12, 197
DIM = WIDTH // HEADS
Run = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]


class Graph:
    """Nodes and initializers, gathered; `ranges` (None: FP32) are the activations' absolute maxima, in
    order.
    """

    def __init__(self, ranges: Sequence[float] | None = None) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.ranges = ranges
        self.activations: list[str] = []

    def const(self, value: Any, dtype: str = "float32") -> str:
        name = f"c{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def op(self, kind: str, inputs: list[str], domain: str = "", **attributes: Any) -> str:
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, domain=domain, **attributes))
        return name

    def activation(self, x: str) -> str:
        self.activations.append(x)
        if self.ranges is None:
            return x
        scale = self.const(self.ranges[len(self.activations) - 1] / 127)
        zero = self.const(0, "int8")
        return self.op("DequantizeLinear", [self.op("QuantizeLinear", [x, scale, zero]), scale, zero])

    def random(self, *shape: int, std: float = 0.05) -> npt.NDArray[np.float32]:
        return (self.rng.standard_normal(shape) * std).astype(np.float32)

    def linear(self, x: str, inputs: int, outputs: int) -> str:
        weight, bias = self.random(inputs, outputs), self.const(self.random(outputs, std=0.02))
        x = self.activation(x)
        if self.ranges is None:
            name = self.const(weight)
        else:
            scale = np.abs(weight).max(0) / 127
            integers = self.const(np.rint(weight / scale), "int8")
            name = self.op(
                "DequantizeLinear",
                [integers, self.const(scale), self.const(np.zeros(outputs), "int8")],
                axis=1,
            )
        return self.op("Add", [self.op("MatMul", [x, name]), bias])

    def norm(self, x: str) -> str:
        ones, zeros = self.const(np.ones(WIDTH)), self.const(np.zeros(WIDTH))
        return self.op("LayerNormalization", [x, ones, zeros], epsilon=1e-6, axis=-1)


def vit_attention(g: Graph, qkv: str) -> str:
    fields = {"layout": "packed", "num_heads": HEADS, "head_dim": DIM, "scale": DIM**-0.5, "has_bias": 0}
    fields |= {"tile_q": 64, "tile_k": 64, "pv": "int8"}
    fields |= {"q_scale": 0.0, "k_scale": 0.0, "v_scale": 0.0, "out_scale": 0.0}
    return g.op("VitAttention", [qkv], "vitc", **fields, plugin_namespace="vitc", plugin_version="1")


def finish(g: Graph, out: str, inputs: list[int | str], outputs: list[int | str]) -> onnx.ModelProto:
    graph = helper.make_graph(
        g.nodes,
        "vit",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, inputs)],
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, outputs)],
        g.tensors,
    )
    function = attention_function(Signature("packed", False, False, False, torch.float32, None), "", 20)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("vitc", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=9)


def vit(ranges: Sequence[float] | None = None) -> tuple[onnx.ModelProto, list[str]]:
    """ViT-B/16 at 224 and the names of the activations that INT8 quantizes."""
    g = Graph(ranges)
    x = g.op("Conv", ["x", g.const(g.random(WIDTH, 3, 16, 16))], kernel_shape=[16, 16], strides=[16, 16])
    x = g.op("Transpose", [g.op("Reshape", [x, g.const([0, WIDTH, -1], "int64")])], perm=[0, 2, 1])
    batch = g.op("Shape", ["x"], start=0, end=1)
    shape = g.op("Concat", [batch, g.const([1, WIDTH], "int64")], axis=0)
    x = g.op("Concat", [g.op("Expand", [g.const(g.random(1, 1, WIDTH)), shape]), x], axis=1)
    x = g.op("Add", [x, g.const(g.random(1, TOKENS, WIDTH))])
    for _ in range(DEPTH):
        mixed = vit_attention(g, g.linear(g.norm(x), WIDTH, 3 * WIDTH))
        x = g.op("Add", [x, g.linear(mixed, WIDTH, WIDTH)])
        hidden = g.op("Gelu", [g.linear(g.norm(x), WIDTH, 4 * WIDTH)])
        x = g.op("Add", [x, g.linear(hidden, 4 * WIDTH, WIDTH)])
    x = g.op("Gather", [g.norm(x), g.const(0, "int64")], axis=1)
    out = g.op("MatMul", [x, g.const(g.random(WIDTH, 1000))])
    return finish(g, out, ["batch", 3, 224, 224], ["batch", 1000]), g.activations


def images(count: int) -> npt.NDArray[np.float32]:
    """Images that are neither flat nor pure noise: blocks of 16 pixels with noise on top."""
    rng = np.random.default_rng(1)
    coarse = np.kron(rng.standard_normal((count, 3, 14, 14)), np.ones((1, 1, 16, 16)))
    return (coarse + 0.3 * rng.standard_normal((count, 3, 224, 224))).astype(np.float32)


def measured_ranges() -> list[float]:
    proto, names = vit()
    for name in dict.fromkeys(names):
        proto.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    values = session.run(names, {"x": images(4)})
    return [float(np.abs(value).max()) for value in values]


def inlined(proto: onnx.ModelProto, fused: bool = False) -> onnx.ModelProto:
    if fused:
        use_multi_head_attention(proto)
    return onnx.inliner.inline_local_functions(proto) if proto.functions else proto


def on_ort(proto: onnx.ModelProto, threads: int, exact: bool = False) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Waiting threads would spin through the next contender's turn.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.x64quantprecision", str(int(exact)))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    return lambda x: session.run(None, {"x": x})[0]  # type: ignore[no-any-return]


def on_openvino(model: onnx.ModelProto | openvino.Model, threads: int) -> Run:
    core = openvino.Core()
    network = core.read_model(model.SerializeToString()) if isinstance(model, onnx.ModelProto) else model
    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    request = core.compile_model(network, "CPU", config).create_infer_request()
    return lambda x: np.array(request.infer([x], share_inputs=True)[0])


def vit_contenders(threads: int) -> dict[str, Run]:
    """The first is the reference of the agreement. What vitc opens is marked with a star."""
    ranges = measured_ranges()

    def int8(*steps: Callable[[onnx.ModelProto], int], fused: bool = True) -> onnx.ModelProto:
        proto = inlined(vit(ranges)[0], fused)
        for step in steps:
            step(proto)
        return proto

    # On x86 without VNNI, INT8 products saturate unless told otherwise.
    plain = int8_dot() is None
    mark = {True: " *", False: ""}
    return {
        "ort fp32, function body": on_ort(inlined(vit()[0]), threads),
        "ort fp32, MultiHeadAttention *": on_ort(inlined(vit()[0], fused=True), threads),
        "openvino fp32, function body *": on_openvino(inlined(vit()[0]), threads),
        "ort int8, s8 activations": on_ort(int8(), threads),
        f"ort int8, u8 activations{mark[not plain]}": on_ort(int8(shift_to_unsigned), threads),
        "ort int8, s8 activations, exact": on_ort(int8(), threads, exact=True),
        f"ort int8, u8 activations, exact{mark[plain]}": on_ort(int8(shift_to_unsigned), threads, exact=True),
        "openvino int8, s8 activations": on_openvino(int8(fused=False), threads),
        f"openvino int8, u8 activations{mark[not plain]}": on_openvino(int8(shift_to_unsigned, fused=False), threads),
        f"openvino int8 numbers, fp32 weights{mark[plain]}": on_openvino(
            int8(fold_weights, shift_to_unsigned, fused=False), threads
        ),
    }


def attention_contenders(threads: int) -> dict[str, Run]:
    """One attention on packed q, k, v [batch, tokens, 3 * 768]."""

    def model(attention: Callable[[Graph, str], str]) -> onnx.ModelProto:
        g = Graph()
        return finish(g, g.op("Identity", [attention(g, "x")]), ["b", "n", 3 * WIDTH], ["b", "n", WIDTH])

    return {
        "ort, function body": on_ort(inlined(model(vit_attention)), threads),
        "ort, split then transposes": on_ort(model(split_attention), threads),
        "ort, MultiHeadAttention *": on_ort(inlined(model(vit_attention), fused=True), threads),
        "openvino, function body *": on_openvino(inlined(model(vit_attention)), threads),
        "openvino, split then transposes": on_openvino(model(split_attention), threads),
        "openvino, scaled_dot_product_attention": on_openvino(openvino_sdpa(), threads),
    }


def split_attention(g: Graph, qkv: str) -> str:
    """Split on the last axis, then one transpose an operand: the spelling OpenVINO's own fusion is written
    for.
    """
    sizes = g.const([WIDTH] * 3, "int64")
    g.nodes.append(helper.make_node("Split", [qkv, sizes], ["q", "k", "v"], name="split", axis=-1))
    shape = g.const([0, 0, HEADS, DIM], "int64")
    q, k, v = (
        g.op("Transpose", [g.op("Reshape", [name, shape])], perm=perm)
        for name, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3]))
    )
    scores = g.op("Mul", [g.op("MatMul", [q, k]), g.const(DIM**-0.5)])
    mixed = g.op("MatMul", [g.op("Softmax", [scores], axis=-1), v])
    return g.op("Reshape", [g.op("Transpose", [mixed], perm=[0, 2, 1, 3]), g.const([0, 0, WIDTH], "int64")])


def openvino_sdpa() -> openvino.Model:
    x = ov_ops.parameter([-1, -1, 3 * WIDTH], np.float32, name="x")
    parts = ov_ops.variadic_split(x, ov_ops.constant(np.int64(2)), ov_ops.constant(np.int64([WIDTH] * 3)))
    perm = ov_ops.constant(np.int64([0, 2, 1, 3]))
    shape = ov_ops.constant(np.int64([0, 0, HEADS, DIM]))
    q, k, v = (ov_ops.transpose(ov_ops.reshape(parts.output(i), shape, True), perm) for i in range(3))
    mixed = ov_ops.transpose(ov_ops.scaled_dot_product_attention(q, k, v), perm)
    return openvino.Model([ov_ops.reshape(mixed, ov_ops.constant(np.int64([0, 0, WIDTH])), True)], [x])


@dataclass
class Times:
    wall: list[float]
    cpu: list[float]


def take_turns(contenders: dict[str, Run], x: npt.NDArray[np.float32], rounds: int) -> dict[str, Times]:
    times = {name: Times([], []) for name in contenders}
    for turn in range(rounds):
        for name, run in list(contenders.items())[:: 1 if turn % 2 == 0 else -1]:
            run(x)
            cpu, wall = time.process_time(), time.perf_counter()
            run(x)
            times[name].wall.append(time.perf_counter() - wall)
            times[name].cpu.append(time.process_time() - cpu)
    return times


def print_table(times: dict[str, Times], agreement: dict[str, tuple[float, float]], images: int, threads: int) -> None:
    print(f"| contender | wall min | wall median | CPU / {threads} median | cos | rel |")
    print("|---|---|---|---|---|---|")
    for name, t in times.items():
        wall, median, cpu = (1e3 * value / images for value in (min(t.wall), np.median(t.wall), np.median(t.cpu)))
        cos, rel = agreement[name]
        print(f"| {name} | {wall:.2f} | {median:.2f} | {cpu / threads:.2f} | {cos:.5f} | {rel:.4f} |")
    print(flush=True)


def agreements(contenders: dict[str, Run], x: npt.NDArray[np.float32]) -> dict[str, tuple[float, float]]:
    """Cosine similarity and relative L2 error to the first contender."""
    outputs = {name: run(x).astype(np.float64).ravel() for name, run in contenders.items()}
    ref = next(iter(outputs.values()))
    norm = np.linalg.norm
    return {
        name: (float(y @ ref / norm(y) / norm(ref)), float(norm(y - ref) / norm(ref))) for name, y in outputs.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU engines: which spelling is fastest here.")
    parser.add_argument("--attention", action="store_true", help="one attention alone")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    args = parser.parse_args()
    print(f"INT8 dot product: {int8_dot() or 'none'}; onnxruntime {onnxruntime.__version__}, ", end="")
    print(f"openvino {openvino.__version__}; {args.threads} threads, {args.rounds} rounds, ms an image\n")
    if args.attention:
        contenders = attention_contenders(args.threads)
        for batch, tokens in [(b, n) for b in args.batch for n in (197, 577, 1025)]:
            x = np.random.default_rng(0).standard_normal((batch, tokens, 3 * WIDTH)).astype(np.float32)
            print(f"batch {batch}, {tokens} tokens\n")
            times = take_turns(contenders, x, args.rounds)
            print_table(times, agreements(contenders, x), batch, args.threads)
        return
    contenders = vit_contenders(args.threads)
    agreement = agreements(contenders, images(8))
    for batch in args.batch:
        print(f"ViT-B/16, batch {batch}\n")
        print_table(take_turns(contenders, images(batch), args.rounds), agreement, batch, args.threads)


if __name__ == "__main__":
    main()
