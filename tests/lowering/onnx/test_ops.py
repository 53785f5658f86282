"""Every operator with an ONNX form: ONNX Runtime gives what PyTorch gives, at the example's batch and at another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import vitc
from vitc.errors import LoweringError
from vitc.frontend.capture import capture
from vitc.graph.program import Program
from vitc.lowering.onnx import emitter
from vitc.lowering.onnx.model import OnnxModel, lower

aten, own = torch.ops.aten, torch.ops.vitc

X = (4, 6)  # of one image: the batch comes before it
IMAGE = (4, 8, 8)


class Call(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(5, 6))
        self.bias = nn.Parameter(torch.randn(5))
        self.row = nn.Parameter(torch.rand(6) + 0.5)
        self.kernel = nn.Parameter(torch.randn(4, 2, 3, 3))
        self.register_buffer("index", torch.tensor([2, 0, 1]))
        self.register_buffer("table", torch.randn(7, 3))

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


#: Each calls one operator, or a few. `m` holds weights; `x`, `y` are [batch, 4, 6], images [batch, 4, 8, 8].
UNARY = (
    "exp", "neg", "abs", "erf", "tanh", "sigmoid", "relu", "sin", "cos", "floor", "ceil", "round", "hardswish",
    "softplus",
    "clone", "alias", "square", "silu", "hardsigmoid", "gelu", "elu", "leaky_relu", "hardtanh", "log", "sqrt",
    "rsqrt", "reciprocal",
)  # fmt: skip
POSITIVE = (aten.log.default, aten.sqrt.default, aten.rsqrt.default, aten.reciprocal.default)
COMPARE = ("eq", "ne", "gt", "ge", "lt", "le")


def _unary(op: Any) -> Callable[..., Any]:
    return lambda m, x: op(x.abs() + 0.1 if op in POSITIVE else x)


def _compared(op: Any) -> Callable[..., Any]:
    return lambda m, x: op(x, 0.25).float()


def _of_two(op: Any, prepare: Callable[[Tensor], Tensor] = lambda t: t) -> Callable[..., Any]:
    return lambda m, x, y: op(prepare(x), prepare(y)).float()


ONE: dict[str, Callable[..., Any]] = {
    **{name: _unary(getattr(aten, name).default) for name in UNARY},
    **{f"{name}.Scalar": _compared(getattr(aten, name).Scalar) for name in COMPARE},
    "amax": lambda m, x: aten.amax.default(x, [-1], True),
    "amin": lambda m, x: aten.amin.default(x, [1]),
    "gelu tanh": lambda m, x: aten.gelu.default(x, approximate="tanh"),
    "elu 0.5": lambda m, x: aten.elu.default(x, 0.5),
    "leaky 0.2": lambda m, x: aten.leaky_relu.default(x, 0.2),
    "clamp": lambda m, x: aten.clamp.default(x, -0.5, 0.5),
    "clamp low": lambda m, x: aten.clamp.default(x, min=-0.5),
    "clamp_min": lambda m, x: aten.clamp_min.default(x, 0.1),
    "clamp_max": lambda m, x: aten.clamp_max.default(x, 0.1),
    "add.Scalar": lambda m, x: aten.add.Scalar(x, 2.0),
    "sub.Scalar": lambda m, x: aten.sub.Scalar(x, 2.0),
    "mul.Scalar": lambda m, x: aten.mul.Scalar(x, 2.0),
    "div.Scalar": lambda m, x: aten.div.Scalar(x, 2.0),
    "rsub.Scalar": lambda m, x: aten.rsub.Scalar(x, 2.0),
    "pow": lambda m, x: aten.pow.Tensor_Scalar(x, 3),
    "logical_not": lambda m, x: aten.logical_not.default(x > 0).float(),
    "bitwise_not": lambda m, x: aten.bitwise_not.default(x > 0).float(),
    "where scalar other": lambda m, x: aten.where.ScalarOther(x > 0, x, -1.0),
    "where scalar self": lambda m, x: aten.where.ScalarSelf(x > 0, -1.0, x),
    "masked_fill": lambda m, x: aten.masked_fill.Scalar(x, x > 0.5, -100),
    "masked_fill tensor": lambda m, x: aten.masked_fill.Tensor(x, x > 0.5, m.bias[0] * 1),
    "mean": lambda m, x: x + aten.mean.default(x),
    "mean.dim": lambda m, x: aten.mean.dim(x, [1], True),
    "sum": lambda m, x: x + aten.sum.default(x),
    "sum.dim": lambda m, x: aten.sum.dim_IntList(x, [-1, 1]),
    "norm 2": lambda m, x: aten.linalg_vector_norm.default(x, 2, [-1], True),
    "norm 1": lambda m, x: aten.linalg_vector_norm.default(x, 1, [1]),
    "var": lambda m, x: aten.var.correction(x, [-1], correction=1, keepdim=True),
    "var population": lambda m, x: aten.var.correction(x, [1, 2], correction=0),
    "var_mean": lambda m, x: aten.var_mean.correction(x, [-1], correction=0, keepdim=True),
    "var_mean squeezed": lambda m, x: aten.var_mean.correction(x, [-1], correction=1),
    "cumsum": lambda m, x: aten.cumsum.default(x, 1),
    "max.dim": lambda m, x: aten.max.dim(x, -1),
    "min.dim": lambda m, x: aten.min.dim(x, 1, True),
    "argmax": lambda m, x: aten.argmax.default(x, -1),
    "softmax": lambda m, x: aten.softmax.int(x, -1),
    "_softmax": lambda m, x: aten._softmax.default(x, 1, False),
    "log_softmax": lambda m, x: aten.log_softmax.int(x, -1),
    "glu": lambda m, x: aten.glu.default(x, -1),
    "linear": lambda m, x: aten.linear.default(x, m.weight, m.bias),
    "linear, no bias": lambda m, x: aten.linear.default(x, m.weight),
    "addmm": lambda m, x: aten.addmm.default(m.bias, x[:, 0], m.weight.t()),
    "addmm scaled": lambda m, x: aten.addmm.default(m.bias, x[:, 0], m.weight.t(), beta=0.5, alpha=2),
    "mm": lambda m, x: aten.mm.default(x[:, 0], m.weight.t()),
    "layer_norm": lambda m, x: aten.layer_norm.default(x, [6], m.row, m.row, 1e-6),
    "layer_norm, two dims, plain": lambda m, x: aten.layer_norm.default(x, [4, 6]),
    "rms_norm": lambda m, x: aten.rms_norm.default(x, [6], m.row, 1e-6),
    "rms_norm, own epsilon": lambda m, x: aten.rms_norm.default(x, [6]),
    "view": lambda m, x: aten.view.default(x, [x.shape[0], 24]),
    "_unsafe_view": lambda m, x: aten._unsafe_view.default(x, [x.shape[0] * 4, 6]),
    "reshape, -1 and the batch": lambda m, x: aten.reshape.default(x, [x.shape[0], -1, 2, 3, 2]),
    "reshape, near twins": lambda m, x: (x.reshape(x.shape[0], -1, 2, 3, 2), x.reshape(x.shape[0], -1, 2, 3, 4)),
    "flatten": lambda m, x: aten.flatten.using_ints(x, 1),
    "unflatten": lambda m, x: aten.unflatten.int(x, -1, [2, 3]),
    "permute": lambda m, x: aten.permute.default(x, [2, 0, 1]),
    "transpose": lambda m, x: aten.transpose.int(x, -1, 0),
    "t": lambda m, x: aten.t.default(x[:, 0]),
    "unsqueeze": lambda m, x: aten.unsqueeze.default(x, -1),
    "squeeze": lambda m, x: aten.squeeze.default(x[:, :1]),
    "squeeze.dim": lambda m, x: aten.squeeze.dim(x[:, :1], 1),
    "squeeze.dims": lambda m, x: aten.squeeze.dims(x[:, :1, :1], [1, 2]),
    "expand": lambda m, x: aten.expand.default(x[:, :1], [-1, 3, 6]),
    "repeat": lambda m, x: aten.repeat.default(x, [1, 2, 1]),
    "repeat, more dims": lambda m, x: aten.repeat.default(x, [2, 1, 1, 3]),
    "unbind": lambda m, x: aten.unbind.int(x, 1),
    "split": lambda m, x: aten.split.Tensor(x, 4, -1),
    "split_with_sizes": lambda m, x: aten.split_with_sizes.default(x, [1, 5], -1),
    "select": lambda m, x: aten.select.int(x, 1, -1),
    "slice": lambda m, x: aten.slice.Tensor(x, -1, 1, -1, 2),
    "index_select": lambda m, x: aten.index_select.default(x, 1, m.index),
    "index": lambda m, x: aten.index.Tensor(x, [None, m.index]),
    "embedding": lambda m, x: aten.embedding.default(m.table, (x[:, 0] > 0).long()),
    "gather": lambda m, x: aten.gather.default(x, 2, (x > 0).long()),
    "roll": lambda m, x: aten.roll.default(x, [1, -2], [1, 2]),
    "flip": lambda m, x: aten.flip.default(x, [1, -1]),
    "pad": lambda m, x: aten.pad.default(x, [1, 2, 0, 1], "constant", 3.0),
    "pad reflect": lambda m, x: aten.pad.default(x, [1, 2], "reflect"),
    "constant_pad_nd": lambda m, x: aten.constant_pad_nd.default(x, [1, 0], -1.0),
    "sizes": lambda m, x: (x.reshape(x.shape[0] * 2, 12), x.new_zeros(x.shape[0] + 3, (x.shape[0] * 4 - 1) // 2)),
    "full": lambda m, x: x[:, :1] + aten.full.default([x.shape[0], 2, 6], 3.0),
    "zeros": lambda m, x: x[:, :1] + aten.zeros.default([x.shape[0], 2, 6]),
    "ones": lambda m, x: x[:, :1] + aten.ones.default([x.shape[0], 2, 6]),
    "new_zeros": lambda m, x: aten.new_zeros.default(x, [x.shape[0], 2]),
    "new_ones": lambda m, x: aten.new_ones.default(x, [x.shape[0], 2]),
    "new_full": lambda m, x: aten.new_full.default(x, [x.shape[0], 2], 1.5),
    "zeros_like": lambda m, x: aten.zeros_like.default(x),
    "ones_like": lambda m, x: aten.ones_like.default(x),
    "full_like": lambda m, x: aten.full_like.default(x, 2.5),
    "empty": lambda m, x: aten.fill.Scalar(aten.empty.memory_format([x.shape[0], 2]), 1.5),
    "fill": lambda m, x: aten.fill.Tensor(x, m.bias[0] * 1),
    "arange": lambda m, x: x[:, 0, 0] + aten.arange.default(x.shape[0]),
    "arange.start": lambda m, x: x[:, 0, 0] + aten.arange.start(1, x.shape[0] + 1),
    "arange.step": lambda m, x: x[:, 0, 0] + aten.arange.start_step(0, x.shape[0] * 2, 2),
    "_to_copy": lambda m, x: aten._to_copy.default(x, dtype=torch.int64),
    "topk": lambda m, x: aten.topk.default(x, 2),
    "topk smallest": lambda m, x: aten.topk.default(x, 2, 1, False),
    "einsum": lambda m, x: aten.einsum.default("bnc, oc -> bno", [x, m.weight]),
    "quantize": lambda m, x: own.dequantize(own.quantize(x, m.row[0] * 0.01, 0), m.row[0] * 0.01, 0),
    "quantize per channel": lambda m, x: own.dequantize(own.quantize(x, m.row * 0.01, 2), m.row * 0.01, 2),
}  # fmt: skip
TWO: dict[str, Callable[..., Any]] = {
    **{name: _of_two(getattr(aten, name).Tensor) for name in ("add", "sub", "mul", "div", "rsub")},
    **{name: _of_two(getattr(aten, name).Tensor, torch.round) for name in COMPARE},
    **{name: _of_two(getattr(aten, name).default, lambda t: t > 0) for name in ("logical_and", "logical_or",
    "logical_xor")},
    **{name: _of_two(getattr(aten, name).Tensor, lambda t: t > 0) for name in ("bitwise_and", "bitwise_or")},
    "add alpha": lambda m, x, y: aten.add.Tensor(x, y, alpha=2),
    "maximum": lambda m, x, y: aten.maximum.default(x, y),
    "minimum": lambda m, x, y: aten.minimum.default(x, y),
    "pow": lambda m, x, y: aten.pow.Tensor_Tensor(x.abs(), y),
    "where": lambda m, x, y: aten.where.self(x > y, x, y),
    "matmul": lambda m, x, y: aten.matmul.default(x, y.transpose(1, 2)),
    "bmm": lambda m, x, y: aten.bmm.default(x, y.transpose(1, 2)),
    "baddbmm": lambda m, x, y: aten.baddbmm.default(x[:, :, :4], x, y.transpose(1, 2)),
    "baddbmm scaled": lambda m, x, y: aten.baddbmm.default(x[:, :, :4], x, y.transpose(1, 2), beta=0.5, alpha=2),
    "cat": lambda m, x, y: aten.cat.default([x, y], -1),
    "cat, two dtypes": lambda m, x, y: aten.cat.default([x, (y > 0).long()], 1),
    "stack": lambda m, x, y: aten.stack.default([x, y], -1),
    "type_as": lambda m, x, y: aten.type_as.default(x, y.double()),
}  # fmt: skip
ON_IMAGE: dict[str, Callable[..., Any]] = {
    "conv2d": lambda m, x: aten.conv2d.default(x[:, :2], m.kernel, m.bias[:4], [2, 1], [1, 0], [1, 2]),
    "conv2d grouped": lambda m, x: aten.conv2d.default(x, m.kernel, None, [1, 1], [1, 1], [1, 1], 2),
    "conv2d same": lambda m, x: aten.conv2d.padding(x[:, :2], m.kernel, m.bias[:4], [1, 1], "same"),
    "conv2d valid": lambda m, x: aten.conv2d.padding(x[:, :2], m.kernel, None, [1, 1], "valid"),
    "conv1d": lambda m, x: aten.conv1d.default(x[:, :2, 0], m.kernel[:, :, 0], m.bias[:4], [1], [1]),
    "conv3d": lambda m, x: aten.conv3d.default(x[:, None], m.kernel[:, None], m.bias[:4], [2, 1, 1], [0, 1, 1]),
    "conv_transpose2d": lambda m, x: aten.conv_transpose2d.input(x, m.kernel, m.bias[:2], [2, 2], [1, 1], [1, 1]),
    "group_norm": lambda m, x: aten.group_norm.default(x, 2, m.row[:4], m.bias[:4], 1e-6),
    "max_pool2d": lambda m, x: aten.max_pool2d.default(x, [3, 3], [2, 2], [1, 1]),
    "max_pool2d ceil": lambda m, x: aten.max_pool2d.default(x, [3, 3], [2, 2], [0, 0], [1, 1], True),
    "avg_pool2d": lambda m, x: aten.avg_pool2d.default(x, [2, 2]),
    "avg_pool2d padded": lambda m, x: aten.avg_pool2d.default(x, [3, 3], [1, 1], [1, 1], False, False),
    "adaptive_avg_pool2d": lambda m, x: aten.adaptive_avg_pool2d.default(x, [2, 4]),
    "adaptive_avg_pool2d to one": lambda m, x: aten.adaptive_avg_pool2d.default(x, [1, 1]),
    "adaptive_avg_pool1d": lambda m, x: aten.adaptive_avg_pool1d.default(x[:, :, 0], [4]),
    "pixel_shuffle": lambda m, x: aten.pixel_shuffle.default(x, 2),
    "grid_sampler": lambda m, x: aten.grid_sampler.default(x, x[:, :2].permute(0, 2, 3, 1).tanh(), 0, 0, False),
    "grid_sampler border": lambda m, x: aten.grid_sampler.default(x, x[:, :2].permute(0, 2, 3, 1), 1, 1, True),
    "nearest": lambda m, x: aten.upsample_nearest2d.vec(x, [12, 16], None),
    "bilinear": lambda m, x: aten.upsample_bilinear2d.vec(x, [12, 5], False, None),
    "bilinear corners": lambda m, x: aten.upsample_bilinear2d.vec(x, [12, 5], True, None),
    "bicubic": lambda m, x: aten.upsample_bicubic2d.vec(x, [12, 5], False, None),
    "bilinear antialiased": lambda m, x: aten._upsample_bilinear2d_aa.vec(x, [4, 12], False, None),
    "bicubic antialiased": lambda m, x: aten._upsample_bicubic2d_aa.vec(x, [4, 12], False, None),
}  # fmt: skip
GROUPS = {"one tensor": (ONE, (X,)), "two tensors": (TWO, (X, X)), "an image": (ON_IMAGE, (IMAGE,))}
#: Not in a captured graph, but made by passes; and attention, which tests/lowering/cpu/test_engines.py covers.
ELSEWHERE = {
    own.attention.default, own.attention_int8.default,
    aten.reshape.default, aten.flatten.using_ints, aten.unflatten.int,
}  # fmt: skip
#: Handlers that only refuse.
REFUSING = {aten.batch_norm.default, aten.scaled_dot_product_attention.default}


def _lowered(function: Callable[..., Any], shapes: tuple[tuple[int, ...], ...]) -> tuple[nn.Module, Program, OnnxModel]:
    model = Call(function).eval()
    example = tuple(torch.randn(3, *shape) for shape in shapes)
    program = capture(model, vitc.load_target("cpu"), example)
    return model, program, lower(program.evolve(stage="tiled"))


def _session(model: OnnxModel) -> onnxruntime.InferenceSession:
    onnx.checker.check_model(model.proto, full_check=True)
    return onnxruntime.InferenceSession(model.proto.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("group", GROUPS)
def test_onnx_runtime_gives_what_pytorch_gives(group: str) -> None:
    """All of a group in one graph: one capture, one session."""
    cases, shapes = GROUPS[group]
    model, _, lowered = _lowered(lambda m, *inputs: {name: f(m, *inputs) for name, f in cases.items()}, shapes)
    session = _session(lowered)
    for batch in (3, 5):
        inputs = [torch.randn(batch, *shape) for shape in shapes]
        with torch.no_grad():
            wanted = [(name, t) for name, out in model(*inputs).items() for t in torch.utils._pytree.tree_leaves(out)]
        got = session.run(None, {s.name: t.numpy() for s, t in zip(lowered.inputs, inputs, strict=True)})
        for one, (name, want) in zip(got, wanted, strict=True):
            assert one.dtype == want.numpy().dtype, name
            np.testing.assert_allclose(one, want.numpy(), atol=2e-5, rtol=2e-5, err_msg=name)


def test_every_handler_has_a_case() -> None:
    def everything(m: Call, x: Tensor, y: Tensor, image: Tensor) -> Any:
        given = {"one tensor": (x,), "two tensors": (x, y), "an image": (image,)}
        return [f(m, *given[group]) for group, (cases, _) in GROUPS.items() for f in cases.values()]

    program = capture(
        Call(everything).eval(), vitc.load_target("cpu"), tuple(torch.randn(3, *s) for s in (X, X, IMAGE))
    )
    seen = {n.target for n in program.graph.nodes if n.op == "call_function"}
    assert sorted(str(target) for target in set(emitter._handlers) - seen - ELSEWHERE - REFUSING) == []


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda m, x: aten.lgamma.default(x.abs()), "has no ONNX form in vitc"),
        (lambda m, x: aten.index.Tensor(x, [None, m.index, m.index]), "indexes 2 dimensions at once"),
        (lambda m, x: aten.linalg_vector_norm.default(x, float("inf"), [-1]), "norm of order inf"),
        (lambda m, x: aten.adaptive_avg_pool1d.default(x, [4]), "pools \\[6\\] to \\[4\\]; only whole ratios"),
        (
            lambda m, x: aten.scaled_dot_product_attention.default(x, x, x),
            "is not tiled; run the pass 'tile-attention'",
        ),
        (lambda m, x: aten.elu.default(x, 1.0, 1.05), "scales an ELU"),
        (lambda m, x: aten.softplus.default(x, 2.0), "softplus with beta 2"),
    ],
)
def test_what_cannot_be_lowered_says_why(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(LoweringError, match=message):
        _lowered(function, (X,))


def test_a_program_that_is_not_tiled_is_refused() -> None:
    program = capture(Call(lambda m, x: x + 1).eval(), vitc.load_target("cpu"), (torch.randn(2, 3),))
    with pytest.raises(
        LoweringError, match="lowering needs stage 'tiled' or 'quantized', the program is at 'captured'"
    ):
        lower(program)


def test_a_weight_that_serves_twice_is_stored_once_in_each_form() -> None:
    def function(m: Call, x: Tensor) -> Any:
        return aten.linear.default(x, m.weight), aten.linear.default(2 * x, m.weight), x[:, :1] * m.weight[:1]

    model, _, lowered = _lowered(function, (X,))
    stored = {i.name: tuple(i.dims) for i in lowered.proto.graph.initializer if "weight" in i.name}
    assert stored == {"weight": (6, 5), "weight_1": (5, 6)}
    x = torch.randn(2, *X)
    got = _session(lowered).run(None, {lowered.inputs[0].name: x.numpy()})
    for one, want in zip(got, model(x), strict=True):
        np.testing.assert_allclose(one, want.detach().numpy(), atol=1e-5)


def test_literals_are_shared_only_if_all_their_values_agree() -> None:
    def function(m: Call, x: Tensor) -> Any:
        return x.reshape(-1, 2, 3, 2, 2), x.reshape(-1, 2, 3, 2, 2), x.reshape(-1, 2, 3, 1, 4)

    _, _, lowered = _lowered(function, (X,))
    shapes = [i for i in lowered.proto.graph.initializer if i.name.startswith("const/int64")]
    assert len(shapes) == 2
