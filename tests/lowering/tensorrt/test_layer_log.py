from __future__ import annotations

import json

import pytest

from vitc.errors import BuildError
from vitc.lowering.tensorrt import Kind, LayerTable, Tensor
from vitc.lowering.tensorrt.layer_log import dtype_of, nodes_of
from vitc.lowering.tensorrt.layers import module_of

FORMAT = "Strides: [1,1], StrideOrder: [1,0], "
LINEAR = ", Format: (Linear) Row major linear format"


def tensor(name: str, shape: str, dtype: str) -> str:
    return f"{{ Name: {name}, Dimensions: [{shape}], {FORMAT}Datatype: {dtype}{LINEAR} }}"


def line(name: str, kind: str, inputs: str, constants: str, outputs: str, tactic: str, *nodes: str) -> str:
    metadata = "\x1f".join(f"[ONNX Layer: {node}]" for node in nodes)
    return (
        f"Name: {name}, LayerType: {kind}, Inputs: [{inputs}], Constants: [{constants}], "
        f"Outputs: [{outputs}], TacticName: {tactic}, StreamId: 0, Metadata: {metadata}"
    )


NAME = "/blocks.0/attn/qkv"
GEMM = line(
    f"{NAME}/MatMul_myl0_4",
    "gemm",
    tensor("xq", "-1,192", "Int8"),
    ", ".join([tensor("w", "192,576", "Int8"), tensor("alpha", "1", "Float"), tensor("beta", "1", "Float")]),
    tensor("y", "-1,576", "Half"),
    "__myelin_CASK_STUB",
    f"{NAME}/MatMul",
    f"{NAME}/DequantizeLinear",
)
SCALES = line(
    "__myl_MulAdd_myl0_5",
    "kgen",
    tensor("y", "-1,576", "Half"),
    tensor("s", "1,576", "Half"),
    tensor("z", "-1,576", "Half"),
    "__myl_MulAdd_0x1",
    f"{NAME}/MatMul",
    f"{NAME}/Add",
)
PLUGIN = line(
    "/blocks.0/attn/VitAttention_myl0_6",
    "custom_layer",
    tensor("z", "-1,197,576", "Int8"),
    "",
    tensor("a", "-1,197,192", "Int8"),
    "",
    "/blocks.0/attn/VitAttention",
)
LOG = ["something else", f"Layers:\n{GEMM}\n{SCALES}\n{PLUGIN}\n\nI/O Tensors:\n Name: x, IOMode: Input"]


def test_a_log_becomes_records() -> None:
    gemm, scales, plugin = LayerTable.from_log(LOG).layers
    assert (gemm.name, gemm.type, gemm.tactic) == (f"{NAME}/MatMul_myl0_4", "gemm", "__myelin_CASK_STUB")
    assert gemm.inputs == (Tensor("xq", "int8", (-1, 192)),)
    assert [constant.shape for constant in gemm.constants] == [(192, 576), (1,), (1,)]
    assert gemm.outputs == (Tensor("y", "float16", (-1, 576)),)
    assert gemm.nodes == (f"{NAME}/MatMul", f"{NAME}/DequantizeLinear")
    assert gemm.modules == ("blocks.0.attn.qkv",)
    assert scales.kind is Kind.OTHER
    assert plugin.kind is Kind.PLUGIN
    assert (plugin.tactic, plugin.constants) == ("", ())


def test_only_the_last_engine_of_a_log_counts() -> None:
    assert len(LayerTable.from_log([*LOG, f"Layers:\n{PLUGIN}\n\n"]).layers) == 1
    assert LayerTable.from_log(["nothing"]).layers == ()


def test_the_summary_and_the_rows() -> None:
    table = LayerTable.from_log(LOG)
    assert table.summary() == {"plugin": 1, "INT8 GEMM": 1, "other": 1}
    assert json.loads(json.dumps(table.to_rows()))[2] == {
        "name": "/blocks.0/attn/VitAttention_myl0_6",
        "kind": "plugin",
        "type": "custom_layer",
        "inputs": ["int8[-1, 197, 576]"],
        "outputs": ["int8[-1, 197, 192]"],
        "tactic": "",
        "nodes": ["/blocks.0/attn/VitAttention"],
        "modules": ["blocks.0.attn"],
    }


def test_layers_under_a_module() -> None:
    table = LayerTable.from_log(LOG)
    assert [layer.kind for layer in table.under("blocks.0.attn").layers] == [
        Kind.INT8_GEMM,
        Kind.OTHER,
        Kind.PLUGIN,
    ]
    assert len(table.under("blocks.0.attn.qkv").layers) == 2
    assert table.under("blocks.0.att").layers == ()


def test_sums_that_leave_the_gemm_before_their_scale() -> None:
    table = LayerTable.from_log(LOG)
    assert table.unscaled_half() == (table.layers[0],)
    other_nodes = SCALES.replace(f"[ONNX Layer: {NAME}/MatMul]\x1f", "")
    assert LayerTable.from_log([f"Layers:\n{GEMM}\n{other_nodes}\n\n"]).unscaled_half() == ()
    in_float = [text.replace("Datatype: Half", "Datatype: Float") for text in LOG]
    assert LayerTable.from_log(in_float).unscaled_half() == ()


def test_a_line_in_an_unknown_form() -> None:
    with pytest.raises(BuildError, match="logged a layer in a form vitc does not know: 'Name: odd'"):
        LayerTable.from_log(["Layers:\nName: odd\n\n"])


def test_a_line_as_tensorrt_10_writes_it() -> None:
    text = (
        "Name: fc + relu, LayerType: CaskGemmMatrixMultiply, "
        "Inputs: [ { Name: x, Location: Device, Dimensions: [8,64], "
        "Format/Datatype: Row major linear INT8 format (kLINEAR) }], "
        "Outputs: [ { Name: y, Location: Device, Dimensions: [8,32], "
        "Format/Datatype: Row major linear FP16 format (kLINEAR) }], ParameterType: MatMul, "
        "TacticName: sm80_xmma_gemm_i8f16_tn_n, TacticValue: 0x1, StreamId: 0, "
        "Metadata: [ONNX Layer: /fc/MatMul]"
    )
    (layer,) = LayerTable.from_log([f"Layers:\n{text}\n\n"]).layers
    assert layer.inputs == (Tensor("x", "int8", (8, 64)),)
    assert layer.outputs == (Tensor("y", "float16", (8, 32)),)
    assert layer.tactic == "sm80_xmma_gemm_i8f16_tn_n"
    assert layer.kind is Kind.INT8_GEMM


@pytest.mark.parametrize(
    ("metadata", "nodes"),
    [
        ("", ()),
        ("[ONNX Layer: /a/Mul]\x1f[ONNX Layer: /a/Mul]\x1f[ONNX Layer: /b[0]/Add]", ("/a/Mul", "/b[0]/Add")),
        (
            "[ONNX Layer: node_of_y | /blocks.0/attn/VitAttention (VitAttention)]",
            ("/blocks.0/attn/VitAttention",),
        ),
    ],
)
def test_nodes(metadata: str, nodes: tuple[str, ...]) -> None:
    assert nodes_of(metadata) == nodes


@pytest.mark.parametrize(
    ("node", "module"),
    [
        ("/blocks.0/attn/qkv/MatMul", "blocks.0.attn.qkv"),
        ("/Add", ""),
        ("MatMul_12", ""),
    ],
)
def test_modules(node: str, module: str) -> None:
    assert module_of(node) == module


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("Half", "float16"),
        ("Row major linear FP16 format (kLINEAR)", "float16"),
        ("BFloat16", "bfloat16"),
        ("Float", "float32"),
        ("Int8", "int8"),
        ("Int32", "int32"),
        ("Int64", "int64"),
        ("Bool", "bool"),
        ("FP8", "FP8"),
    ],
)
def test_dtypes(text: str, dtype: str) -> None:
    assert dtype_of(text) == dtype
