"""The run of transformer blocks in a quantized ONNX graph: LayerNorm, INT8 linears and INT8 attention, joined to steps.

Reads vitc's own ONNX (FP32 by now, `vitc::VitAttention` still a node). What stands before the run and behind it is
left to another engine; a graph where something else stands in between is refused with the node's name.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from vitc.lowering.cpu.graph import GraphIndex
from vitc.lowering.onnx_attributes import attributes

Floats = npt.NDArray[np.float32]


#: ONNX's names for the forms of Gelu, and tape.py's.
ACTIVATIONS = {"none": "gelu", "tanh": "gelu_tanh"}


class Unsuitable(Exception):
    """The graph is not one this engine runs. The message says why."""


@dataclass(frozen=True)
class Norm:
    """LayerNormalization that leaves quantized: FP32 [B, N, C] -> INT8."""

    input: str
    output: str
    weight: Floats
    bias: Floats
    epsilon: float
    step: float


@dataclass(frozen=True)
class Linear:
    """INT8 [B, N, K] x INT8 [K, N'] with what follows it: `scale` is input step x weight step x layer scale, [N'].

    The output is FP32, added to `residual` if there is one, or, with a `step`, INT8 after the `activation`.
    """

    input: str
    output: str
    weight: npt.NDArray[np.int8]
    scale: Floats
    bias: Floats
    residual: str | None
    activation: str | None
    step: float | None


@dataclass(frozen=True)
class Attention:
    """Packed INT8 [B, N, 3HD] -> INT8 [B, N, HD].

    `score_scale` [H] makes q.k real and scales it, `value_scale` [H] takes v to the output's integers.
    """

    input: str
    output: str
    heads: int
    head_dim: int
    score_scale: Floats
    value_scale: Floats


Block = Norm | Linear | Attention


@dataclass(frozen=True)
class Trunk:
    """The blocks in order, and the graph's nodes before and behind them. `inputs` and `outputs` are FP32 tensors."""

    blocks: tuple[Block, ...]
    before: tuple[onnx.NodeProto, ...]
    after: tuple[onnx.NodeProto, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def match(graph: onnx.GraphProto) -> Trunk:
    """The trunk of a graph. Raises Unsuitable."""
    matcher = _Matcher(graph)
    blocks: list[Block] = []
    for node in graph.node:
        block = matcher.block(node)
        if block is not None:
            blocks.append(block)
    if not any(isinstance(b, Linear) for b in blocks):
        raise Unsuitable("the graph has no INT8 linear layer")
    return _cut(graph, matcher, blocks)


def _cut(graph: onnx.GraphProto, matcher: _Matcher, blocks: list[Block]) -> Trunk:
    made = {b.output for b in blocks}
    integers = {b.output for b in blocks if not isinstance(b, Linear) or b.step is not None}
    behind = set(made)
    before, after = [], []
    for node in graph.node:
        if id(node) in matcher.covered:
            continue
        if any(name in behind for name in node.input):
            after.append(node)
            behind.update(node.output)
        else:
            before.append(node)
    late = {name: node for node in after for name in node.output}
    inputs: list[str] = []
    for block in blocks:
        for name in (block.input, block.residual if isinstance(block, Linear) else None):
            if name is None or name in made:
                continue
            if matcher.index.constant(name) is not None:
                raise Unsuitable(f"{name!r}, which enters the blocks, is a constant")
            if name in late:
                raise Unsuitable(f"{late[name].op_type} {late[name].name or name!r} stands between the blocks")
            if name == block.input and not isinstance(block, Norm):
                raise Unsuitable(f"{name!r} is quantized by itself, not behind a LayerNorm, linear or attention")
            inputs.append(name)
    read = {name for node in after for name in node.input} | matcher.index.outputs
    for name in integers & read:
        raise Unsuitable(f"the integers {name!r} are read outside the blocks")
    outputs = [b.output for b in blocks if b.output in read]
    return Trunk(tuple(blocks), tuple(before), tuple(after), tuple(dict.fromkeys(inputs)), tuple(outputs))


class _Matcher:
    def __init__(self, graph: onnx.GraphProto) -> None:
        self.index = GraphIndex(graph)
        self.covered: set[int] = set()  # ids of the nodes that the blocks replace

    def block(self, node: onnx.NodeProto) -> Block | None:
        """The block this node is the head of, if it is one."""
        if node.op_type == "LayerNormalization":
            return self._norm(node)
        if node.op_type == "MatMul":
            return self._linear(node)
        if node.op_type == "VitAttention":
            return self._attention(node)
        return None

    def _norm(self, node: onnx.NodeProto) -> Norm | None:
        quantize = self.sole_reader(node.output[0])
        step = self.step(quantize) if quantize is not None and quantize.op_type == "QuantizeLinear" else None
        fields = attributes(node)
        if quantize is None or step is None or fields.get("axis", -1) != -1:
            return None
        weight = self._floats(node.input[1])
        if weight is None or weight.size % 16:
            return None
        bias = self._floats(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros_like(weight)
        if bias is None:
            return None
        self._cover(node, quantize)
        return Norm(node.input[0], quantize.output[0], weight, bias, float(fields.get("epsilon", 1e-5)), step)

    def _linear(self, node: onnx.NodeProto) -> Linear | None:
        x, w = (self.index.producer.get(name) for name in node.input)
        if x is None or w is None or x.op_type != "DequantizeLinear" or w.op_type != "DequantizeLinear":
            return None
        weight, steps, x_step = self.index.constant(w.input[0]), self._floats(w.input[1]), self.step(x)
        if weight is None or weight.ndim != 2 or weight.dtype != np.int8 or steps is None or x_step is None:
            return None
        if self._offset(w) or (steps.size > 1 and attributes(w).get("axis", 1) != 1):
            return None
        k, n = weight.shape
        if not k or not n or k % 4 or n % 16:
            raise Unsuitable(
                f"{node.name or node.output[0]!r} is {k} x {n}: rows in fours and columns in sixteens are packed"
            )

        if steps.shape not in ((), (1,), (n,)):
            raise Unsuitable(f"{node.name or node.output[0]!r} has weight steps of the shape {list(steps.shape)}")
        tail = _Tail(self, node)
        scale = np.broadcast_to(steps * np.float32(x_step), (n,))
        bias = np.zeros(n, np.float32)
        if (term := tail.take_row("Add", n)) is not None:
            bias = term
        if (factor := tail.take_row("Mul", n)) is not None:  # LayerScale
            scale, bias = scale * factor, bias * factor
        residual = tail.take_residual()
        activation = step = None
        if residual is None:
            activation, step = tail.take_quantize()
        self._cover(*tail.nodes)
        self._cover_dequantize(x)
        self._cover_dequantize(w)
        return Linear(x.input[0], tail.at, weight.astype(np.int8), scale, bias, residual, activation, step)

    def _attention(self, node: onnx.NodeProto) -> Attention:
        fields = attributes(node)
        steps = [float(fields[f"{part}_scale"]) for part in ("q", "k", "v", "out")]
        name = node.name or node.output[0]
        masked = fields["has_bias"] or fields.get("causal")
        if fields["layout"] != "packed" or masked or min(steps) <= 0 or fields["pv"] != "int8":
            raise Unsuitable(f"attention {name!r} is not packed INT8 in and out without a bias or a mask")
        if fields["head_dim"] % 16:
            raise Unsuitable(f"attention {name!r} has heads of {fields['head_dim']}; multiples of 16 are packed")
        self._cover(node)
        heads = int(fields["num_heads"])
        factors = np.array(fields["head_scales"], np.float32)  # [3H], or one for all
        if heads < 1 or factors.size not in (1, 3 * heads):
            raise Unsuitable(f"attention {name!r} has {heads} heads and {factors.size} factors of them")
        q, k, v = np.broadcast_to(factors, 3 * heads).reshape(3, heads) * np.array(steps[:3], np.float32)[:, None]
        scale, out = np.float32(fields["scale"]), np.float32(steps[3])
        return Attention(node.input[0], node.output[0], heads, int(fields["head_dim"]), scale * q * k, v / out)

    def sole_reader(self, name: str) -> onnx.NodeProto | None:
        readers = self.index.readers[name]
        return readers[0] if len(readers) == 1 and name not in self.index.outputs else None

    def _floats(self, name: str) -> Floats | None:
        value = self.index.constant(name)
        return None if value is None or value.dtype != np.float32 else value.astype(np.float32)

    def row(self, name: str, n: int) -> Floats | None:
        """A constant along the columns, or one for all of them; [n]."""
        value = self._floats(name)
        if (
            value is None
            or value.ndim > 3
            or value.size not in (1, n)
            or (value.size == n and value.shape[-1:] != (n,))
        ):
            return None
        return np.broadcast_to(value.reshape(-1), (n,))

    def step(self, node: onnx.NodeProto) -> float | None:
        """The one step of a symmetric INT8 Q or DQ node."""
        step = self._floats(node.input[1])
        return None if step is None or step.size != 1 or self._offset(node) else float(step.reshape(()))

    def _offset(self, node: onnx.NodeProto) -> bool:
        """Whether a Q or DQ node has a zero point other than 0 of INT8."""
        if len(node.input) < 3 or not node.input[2]:
            return node.op_type == "QuantizeLinear"  # its default is u8
        zero = self.index.constant(node.input[2])
        return zero is None or zero.dtype != np.int8 or bool(zero.any())

    def _cover(self, *nodes: onnx.NodeProto) -> None:
        self.covered.update(id(node) for node in nodes)

    def _cover_dequantize(self, node: onnx.NodeProto) -> None:
        if all(id(reader) in self.covered for reader in self.index.readers[node.output[0]]):
            self._cover(node)


class _Tail:
    """What follows a product, as long as each tensor has one reader; `at` is where it stands now."""

    def __init__(self, matcher: _Matcher, node: onnx.NodeProto) -> None:
        self._matcher = matcher
        self.nodes = [node]
        self.at = node.output[0]

    def take_row(self, op_type: str, n: int) -> Floats | None:
        """The constant operand of an Add or Mul along the columns."""
        node = self._next(op_type)
        value = None if node is None else self._matcher.row(self._other(node), n)
        if node is not None and value is not None:
            self._take(node)
        return value

    def take_residual(self) -> str | None:
        """The tensor that the product is added to."""
        node = self._next("Add")
        if node is None or (other := self._other(node)) == self.at or self._matcher.index.constant(other) is not None:
            return None
        self._take(node)
        return other

    def take_quantize(self) -> tuple[str | None, float | None]:
        """(activation, step) of a Gelu, if there is one, and the QuantizeLinear behind it."""
        gelu = self._next("Gelu")
        approximate = "none" if gelu is None else attributes(gelu).get("approximate", "none")
        if approximate not in ACTIVATIONS:
            return None, None
        quantize = self._matcher.sole_reader(gelu.output[0] if gelu is not None else self.at)
        if quantize is None or quantize.op_type != "QuantizeLinear" or (step := self._matcher.step(quantize)) is None:
            return None, None
        if gelu is not None:
            self._take(gelu)
        self._take(quantize)
        return None if gelu is None else ACTIVATIONS[approximate], step

    def _next(self, op_type: str) -> onnx.NodeProto | None:
        node = self._matcher.sole_reader(self.at)
        return node if node is not None and node.op_type == op_type else None

    def _other(self, node: onnx.NodeProto) -> str:
        return next((str(name) for name in node.input if name != self.at), self.at)

    def _take(self, node: onnx.NodeProto) -> None:
        self.nodes.append(node)
        self.at = node.output[0]
