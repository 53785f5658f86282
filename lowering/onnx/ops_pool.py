"""Pooling and resizing.

Both are linear (but for max) and act on each spatial dimension alone: what no ONNX operator says, or what engines do
in different ways, becomes a product with the matrix that torch itself gives for the unit vectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node

from vitc.graph.nodes import shape_of, val, where
from vitc.lowering.onnx.arguments import Refused
from vitc.lowering.onnx.emitter import Emitter, emits
from vitc.lowering.onnx.ops_nn import batched, each, unbatched

aten = torch.ops.aten

_RANK = {
    aten.max_pool1d.default: 1, aten.max_pool2d.default: 2, aten.max_pool3d.default: 3,
    aten.max_pool2d_with_indices.default: 2,
    aten.avg_pool1d.default: 1, aten.avg_pool2d.default: 2, aten.avg_pool3d.default: 3,
}  # fmt: skip


def _spatial(node: Node, x: Node, rank: int) -> list[int]:
    """The spatial sizes, where they must be known. Raises Refused if one is dynamic."""
    sizes = shape_of(x)[-rank:]
    if not all(isinstance(s, int) for s in sizes):
        raise Refused(f"{where(node)} works on sizes {list(sizes)} that are not fixed")
    return [int(s) for s in sizes]


def _overhang(
    node: Node, x: Node, kernel: list[int], stride: list[int], pads: list[int], dilation: list[int]
) -> list[int]:
    """How far beyond the padding the last windows reach with ceil_mode, which engines round in different ways: told
    by the result's own size."""
    sizes, results = _spatial(node, x, len(kernel)), _spatial(node, node, len(kernel))
    return [
        max(0, (o - 1) * s + d * (k - 1) + 1 - n - 2 * p)
        for o, s, d, k, n, p in zip(results, stride, dilation, kernel, sizes, pads, strict=True)
    ]


@emits(aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default)
def _max_pool(e: Emitter, node: Node, x: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any,
              ceil_mode: bool) -> str:  # fmt: skip
    rank = _RANK[node.target]  # type: ignore[index]
    kernel, pads, spread = each(kernel_size, rank), each(padding, rank), each(dilation, rank)
    steps = each(stride, rank) if stride else kernel
    name, lone = batched(e, x, rank)
    if ceil_mode and any(beyond := _overhang(node, x, kernel, steps, pads, spread)):
        name = e.op("Pad", [name, e.ints([0] * (2 + rank) + [0, 0, *beyond]), e.const(-math.inf, val(x).dtype)])
    out = e.op("MaxPool", [name], kernel_shape=kernel, strides=steps, pads=pads + pads, dilations=spread)
    return unbatched(e, out, lone)


@emits(aten.max_pool2d_with_indices.default)
def _max_pool_with_indices(e: Emitter, node: Node, x: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any,
                           ceil_mode: bool) -> tuple[str, None]:  # fmt: skip
    if ceil_mode:
        raise Refused(f"{where(node)} has ceil_mode")
    return _max_pool(e, node, x, kernel_size, stride, padding, dilation, ceil_mode), None


@emits(aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default)
def _avg_pool(e: Emitter, node: Node, x: Any, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool,
              count_include_pad: bool, divisor_override: Any = None) -> str:  # fmt: skip
    """AveragePool over zeros for all that is outside, times a factor for each place where torch divides otherwise."""
    rank, dtype = _RANK[node.target], val(node).dtype  # type: ignore[index]
    kernel, pads = each(kernel_size, rank), each(padding, rank)
    steps = each(stride, rank) if stride else kernel
    name, lone = batched(e, x, rank)
    if not ceil_mode and divisor_override is None and (count_include_pad or not any(pads)):
        out = e.op("AveragePool", [name], kernel_shape=kernel, strides=steps, pads=pads + pads, count_include_pad=1)
        return unbatched(e, out, lone)
    sizes = _spatial(node, x, rank)
    beyond = _overhang(node, x, kernel, steps, pads, [1] * rank)
    ones = torch.ones(1, 1, *sizes, dtype=torch.float64)
    more = {} if divisor_override is None else {"divisor_override": divisor_override}
    asked = node.target(ones, kernel, steps, pads, ceil_mode, count_include_pad, **more)  # type: ignore[operator]
    around = [n for p, b in zip(reversed(pads), reversed(beyond), strict=True) for n in (p, p + b)]
    plain = getattr(torch.nn.functional, f"avg_pool{rank}d")(torch.nn.functional.pad(ones, around), kernel, steps)
    padded = e.op("Pad", [name, e.ints([0, 0, *pads, 0, 0, *[p + b for p, b in zip(pads, beyond, strict=True)]])])
    out = e.op("AveragePool", [padded], kernel_shape=kernel, strides=steps)
    return unbatched(e, e.op("Mul", [out, e.const((asked / plain).numpy(), dtype)]), lone)


@emits(aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default, aten._adaptive_avg_pool2d.default,
       aten.adaptive_avg_pool3d.default, aten._adaptive_avg_pool3d.default)  # fmt: skip
def _adaptive_pool(e: Emitter, node: Node, x: Any, output_size: Any) -> str:
    rank = len(output_size)
    sizes = [int(s) for s in shape_of(node)[-rank:]]
    if all(s == 1 for s in sizes):
        return e.op("ReduceMean", [e.value(x), e.ints(range(-rank, 0))], keepdims=1)
    spatial = _spatial(node, x, rank)
    if not any(a % b for a, b in zip(spatial, sizes, strict=True)):
        kernel = [a // b for a, b in zip(spatial, sizes, strict=True)]
        name, lone = batched(e, x, rank)
        return unbatched(e, e.op("AveragePool", [name], kernel_shape=kernel, strides=kernel), lone)
    pool = torch.nn.functional.adaptive_avg_pool1d
    matrices = [pool(torch.eye(n).double()[None], s)[0] for n, s in zip(spatial, sizes, strict=True)]
    return _along_each(e, e.value(x), matrices, len(shape_of(x)), val(node).dtype)


@emits(aten.adaptive_max_pool1d.default, aten.adaptive_max_pool2d.default, aten.adaptive_max_pool3d.default)
def _adaptive_max_pool(e: Emitter, node: Node, x: Any, output_size: Any) -> tuple[str, None]:
    """Along each dimension the greatest of each window; a shorter one has its last element several times."""
    rank = len(output_size)
    results = [int(s) for s in node.meta["val"][0].shape[-rank:]]
    name, dimensions = e.value(x), len(shape_of(x))
    for place, (size, result) in enumerate(zip(_spatial(node, x, rank), results, strict=True)):
        starts = [i * size // result for i in range(result)]
        ends = [-(-(i + 1) * size // result) for i in range(result)]
        longest = max(b - a for a, b in zip(starts, ends, strict=True))
        index = [[min(a + j, b - 1) for j in range(longest)] for a, b in zip(starts, ends, strict=True)]
        axis = dimensions - rank + place
        windows = e.op("Gather", [name, e.const(index, torch.int64)], axis=axis)
        name = e.op("ReduceMax", [windows, e.ints([axis + 1])], keepdims=0)
    return name, None


def _along_each(e: Emitter, name: str, matrices: list[torch.Tensor], rank: int, dtype: torch.dtype) -> str:
    """The last dimensions, each times its matrix [in, out]; a matrix that only picks is a Gather."""
    for place, matrix in enumerate(reversed(matrices)):
        if torch.equal(matrix, torch.eye(len(matrix)).to(matrix)):
            continue
        axis = rank - 1 - place
        if bool(((matrix == 0) | (matrix == 1)).all()) and bool((matrix.sum(0) == 1).all()):
            name = e.op("Gather", [name, e.const(matrix.argmax(0).numpy())], axis=axis)
            continue
        if place == 0:
            name = e.op("MatMul", [name, e.const(matrix.numpy(), dtype)])
        elif place == 1:
            name = e.op("MatMul", [e.const(matrix.T.numpy(), dtype), name])
        else:
            order = [i for i in range(rank) if i != axis] + [axis]
            moved = e.op("MatMul", [e.op("Transpose", [name], perm=order), e.const(matrix.numpy(), dtype)])
            name = e.op("Transpose", [moved], perm=[order.index(i) for i in range(rank)])
    return name


_RESIZE = {
    aten.upsample_bilinear2d: "linear", aten.upsample_bicubic2d: "cubic", aten.upsample_nearest2d: "nearest",
    aten.upsample_linear1d: "linear", aten.upsample_trilinear3d: "linear", aten.upsample_nearest1d: "nearest",
    aten.upsample_nearest3d: "nearest", aten._upsample_nearest_exact1d: "nearest",
    aten._upsample_nearest_exact2d: "nearest", aten._upsample_nearest_exact3d: "nearest",
    aten._upsample_bilinear2d_aa: "linear", aten._upsample_bicubic2d_aa: "cubic",
}  # fmt: skip
_RESIZE_OVERLOADS = {getattr(p, o): (p, m) for p, m in _RESIZE.items() for o in ("vec", "default") if hasattr(p, o)}
#: Resizes that engines do as torch does where the factor is the ratio of the sizes.
_PLAIN = (aten.upsample_bilinear2d, aten.upsample_bicubic2d, aten.upsample_nearest2d)


@emits(*_RESIZE_OVERLOADS)
def _resize(e: Emitter, node: Node, x: Any, output_size: Any, align_corners: bool = False, scale_factors: Any = None,
            scales: Any = None, scales_d: Any = None, scales_h: Any = None, scales_w: Any = None) -> str:  # fmt: skip
    packet, mode = _RESIZE_OVERLOADS[node.target]
    rank = len(shape_of(x)) - 2
    single = {1: [scales], 2: [scales_h, scales_w], 3: [scales_d, scales_h, scales_w]}[rank]
    factors = list(scale_factors) if scale_factors is not None else single
    results, sizes = shape_of(node)[-rank:], shape_of(x)[-rank:]
    as_sizes = all(
        f is None or (isinstance(n, int) and n * f == o) for f, n, o in zip(factors, sizes, results, strict=True)
    )
    if packet in _PLAIN and as_sizes and all(isinstance(o, int) for o in results):
        return _plain_resize(e, node, x, mode, align_corners)
    spatial, wanted = _spatial(node, x, rank), _spatial(node, node, rank)
    matrices = [
        _resize_matrix(packet, rank, n, o, align_corners, f) for n, o, f in zip(spatial, wanted, factors, strict=True)
    ]
    return _along_each(e, e.value(x), matrices, rank + 2, val(node).dtype)


def _plain_resize(e: Emitter, node: Node, x: Node, mode: str, align_corners: bool) -> str:
    batch = e.op("Shape", [e.value(x)], start=0, end=2)
    sizes = e.op("Concat", [batch, e.ints([int(s) for s in shape_of(node)[-2:]])], axis=0)
    coordinates = "asymmetric" if mode == "nearest" else "align_corners" if align_corners else "half_pixel"
    extra: dict[str, Any] = {"nearest_mode": "floor"} if mode == "nearest" else {}
    if mode == "cubic":
        extra["cubic_coeff_a"] = -0.75
    return e.op("Resize", [e.value(x), "", "", sizes], mode=mode, coordinate_transformation_mode=coordinates, **extra)


def _resize_matrix(
    packet: Callable[..., Any], rank: int, size: int, result: int, align_corners: bool, factor: float | None
) -> torch.Tensor:
    """[size, result]: what torch's own operator makes of each unit vector. Along the last dimension, for all are alike,
    and torch 2.13's antialiasing is wrong in height where the width is 1."""
    units = torch.eye(size, dtype=torch.float64).reshape(1, size, *[1] * (rank - 1), size)
    wanted, factors = [*[1] * (rank - 1), result], [*[None] * (rank - 1), factor]
    takes_corners = any(a.name == "align_corners" for a in packet.default._schema.arguments)  # type: ignore[attr-defined]
    corners = [align_corners] if takes_corners else []
    made: torch.Tensor = packet.default(units, wanted, *corners, *factors)  # type: ignore[attr-defined]
    return made.reshape(size, result)


@emits(aten.grid_sampler.default, aten.grid_sampler_2d.default, aten.grid_sampler_3d.default)
def _grid_sample(e: Emitter, node: Node, x: Any, grid: Any, interpolation_mode: int, padding_mode: int,
                 align_corners: bool) -> str:  # fmt: skip
    return e.op(
        "GridSample", [e.value(x), e.value(grid)], mode=["linear", "nearest", "cubic"][int(interpolation_mode)],
        padding_mode=["zeros", "border", "reflection"][int(padding_mode)], align_corners=int(bool(align_corners)),
    )  # fmt: skip


@emits(aten.pixel_shuffle.default)
def _pixel_shuffle(e: Emitter, node: Node, x: Any, upscale_factor: int) -> str:
    if len(shape_of(x)) != 4:
        raise Refused(f"{where(node)} takes a tensor of rank {len(shape_of(x))}")
    return e.op("DepthToSpace", [e.value(x)], blocksize=int(upscale_factor), mode="CRD")
