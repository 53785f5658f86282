"""What TensorRT-RTX makes of each way to write an INT8 ViT in ONNX: one row of layer counts a spelling.

    python benchmarks/trt_spelling.py [--capability SM86] [--depth 12 --width 768 --heads 12]

Needs tensorrt-rtx and no GPU: engines are built, not run. docs/decisions/0010-tensorrt-spelling.md draws the
conclusions. With --scales it also shows where a GEMM's scales go, by finding their bytes in the plan.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "shared"))

from spelled_vit import Spelling, fp16, make_vit

from vitc.errors import BuildError
from vitc.lowering.tensorrt import Engine, Kind, Profile, build_engine

SPELLINGS = {
    "as vitc emits": Spelling(),
    "weight DQ on [out,in], Transpose": Spelling(linear="matmul_transposed"),
    "Gemm transB, 2-D": Spelling(linear="gemm"),
    "weight axis 0 (wrong)": Spelling(linear="matmul_wrong_axis"),
    "FP32 scales, Cast, FP16 MatMul": Spelling(linear_dtype="float16"),
    "FP16 everywhere": fp16(),
    "FP16, FP32 residual": fp16(residual="float32"),
    "FP16, FP32 LayerNorm": fp16(norm="float32"),
    "FP32 weight, FP16 act. scales": fp16(weight_scales="float32"),
    "FP16 residual": Spelling(residual="float16", norm="float16"),
    "FP16 patch conv": Spelling(patch_dtype="float16"),
    "INT8 patch conv": Spelling(patch_int8=True),
    "Q/DQ on the residual branch": Spelling(quantize_residual=True),
    "GELU from Erf": Spelling(gelu="erf"),
    "attention INT8 -> FP16": Spelling(attention_out_int8=False),
    "attention FP16 -> INT8": Spelling(attention_int8=False),
    "attention FP16 -> FP16": Spelling(attention_int8=False, attention_out_int8=False),
    "q, k, v apart (bnhd)": Spelling(attention="bnhd"),
    "q, k, v by head (bhnd)": Spelling(attention="bhnd"),
    "with a bias": Spelling(bias="initializer"),
    "with a computed bias": Spelling(bias="computed"),
    "two overloads of the function": Spelling(overloads=True),
    "no INT8, FP16": fp16(int8=False),
    "no INT8, FP16, FP32 residual": fp16(int8=False, residual="float32", norm="float32"),
}
COLUMNS = (
    Kind.PLUGIN,
    Kind.INT8_GEMM,
    Kind.DEQUANTIZED_GEMM,
    Kind.FP16_GEMM,
    Kind.INT8_CONVOLUTION,
    Kind.REFORMAT,
)
BATCHES = Profile(1, 4, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capability", default="SM86")
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--heads", type=int, default=3)
    parser.add_argument("--scales", action="store_true")
    arguments = parser.parse_args()
    if arguments.scales:
        print_scales(arguments.capability)
        return
    heads = ("layers", *(kind.value for kind in COLUMNS), "in blocks", "unscaled FP16")
    print(f"{arguments.capability}: {'spelling':34}" + " ".join(f"{head:>12.12}" for head in heads))
    for name, spelling in SPELLINGS.items():
        sized = dataclasses.replace(spelling, depth=arguments.depth, width=arguments.width, heads=arguments.heads)
        print(f"{'':6}{name:34}" + row(sized, arguments.capability), flush=True)


def row(spelling: Spelling, capability: str) -> str:
    try:
        engine = build_engine(make_vit(spelling).SerializeToString(), capability=capability, profile=BATCHES)
    except BuildError as error:
        return f"does not build: {str(error).splitlines()[-1][:90]}"
    layers = engine.layers
    counts = [len(layers.layers), *(len(layers.of(kind)) for kind in COLUMNS)]
    reformats_in_blocks = len(layers.under("blocks").of(Kind.REFORMAT))
    return " ".join(f"{count:12}" for count in (*counts, reformats_in_blocks, len(layers.unscaled_half())))


def print_scales(capability: str) -> None:
    """One INT8 linear: where its scales lie in the plan, and whether a kernel after the GEMM applies them."""
    for dtype in ("float16", "float32"):
        for per_channel in (True, False):
            weight_scale = np.linspace(1e-3, 2e-3, 64).astype(dtype) if per_channel else np.array(1.7e-3, dtype)
            engine = one_linear(weight_scale, activation_scale=0.5, capability=capability)
            (gemm,) = engine.layers.of(Kind.INT8_GEMM)
            product = weight_scale * np.array(0.5, dtype)
            alpha = weight_scale.astype(np.float32) * np.float32(0.5)
            print(
                f"{dtype} scales, {'per channel' if per_channel else 'per tensor':11}: GEMM writes "
                f"{gemm.outputs[0].dtype}; s_x*s_w in {dtype} found in the plan: "
                f"{product.tobytes() in engine.plan}, in float32: {alpha.tobytes() in engine.plan}; "
                f"scaled after the GEMM: {has_scaling_kernel(engine)}"
            )


def has_scaling_kernel(engine: Engine) -> bool:
    (gemm,) = engine.layers.of(Kind.INT8_GEMM)
    return any(layer is not gemm and "/fc/MatMul" in layer.nodes for layer in engine.layers.layers)


def one_linear(weight_scale: np.ndarray, activation_scale: float, capability: str) -> Engine:
    """Q -> DQ -> MatMul(DQ(W)) -> Add, in the type of the scales."""
    dtype = helper.np_dtype_to_tensor_dtype(weight_scale.dtype)
    random = np.random.default_rng(0)
    constants = {
        "w": random.integers(-127, 128, (192, 64)).astype(np.int8),
        "w_scale": weight_scale,
        "w_zero": np.zeros(weight_scale.shape, np.int8),
        "x_scale": np.array(activation_scale, weight_scale.dtype),
        "x_zero": np.array(0, np.int8),
        "bias": random.standard_normal(64).astype(weight_scale.dtype),
    }
    axis = {"axis": 1} if weight_scale.ndim else {}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["q"], name="/fc/QuantizeLinear"),
        helper.make_node("DequantizeLinear", ["q", "x_scale", "x_zero"], ["a"], name="/fc/DequantizeLinear"),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["b"], name="/fc/DQ", **axis),
        helper.make_node("MatMul", ["a", "b"], ["c"], name="/fc/MatMul"),
        helper.make_node("Add", ["c", "bias"], ["y"], name="/fc/Add"),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", dtype, ["batch", 197, 192])],
        [helper.make_tensor_value_info("y", dtype, ["batch", 197, 64])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return build_engine(model.SerializeToString(), capability=capability, profile=BATCHES)


if __name__ == "__main__":
    main()
