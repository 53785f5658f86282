"""vitc::VitAttention -> com.microsoft::MultiHeadAttention, ONNX Runtime's fused attention.

Measured on ViT-B shapes it takes 4-12 % less CPU time than the function's inlined body and never holds the
N x N scores. With a bias it copies the bias for every head, and from [B, H, N, D] it would transpose twice:
those keep the body.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper

from vitc.lowering.cpu.graph import add_initializer
from vitc.lowering.onnx_attributes import attributes

_DOMAIN = "com.microsoft"


def use_multi_head_attention(proto: onnx.ModelProto) -> int:
    """Replaces each VitAttention node that has a fused form. Returns how many."""
    nodes = []
    replaced = 0
    for node in proto.graph.node:
        if node.domain == "vitc" and node.op_type == "VitAttention" and _has_fused_form(node):
            nodes += _fused(proto.graph, node, prefix=f"{node.output[0]}/mha")
            replaced += 1
        else:
            nodes.append(node)
    if replaced:
        del proto.graph.node[:]
        proto.graph.node.extend(nodes)
        if all(opset.domain != _DOMAIN for opset in proto.opset_import):
            proto.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    return replaced


def _has_fused_form(node: onnx.NodeProto) -> bool:
    fields = attributes(node)
    by_head = len(fields["head_scales"]) > 1
    masked = fields["has_bias"] or fields.get("causal")
    return not masked and not by_head and fields["layout"] in ("packed", "bnhd")


def _fused(graph: onnx.GraphProto, node: onnx.NodeProto, prefix: str) -> list[onnx.NodeProto]:
    fields = attributes(node)
    width = int(fields["num_heads"]) * int(fields["head_dim"])
    nodes: list[onnx.NodeProto] = []

    def op(kind: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: Any) -> list[str]:
        name = f"{prefix}/{kind}_{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, outputs, name=name, domain=domain, **attributes))
        return outputs

    operands = list(node.input)
    if fields["layout"] == "packed":
        sizes = add_initializer(graph, f"{prefix}/sizes", np.array([width] * 3, np.int64))
        operands = op("Split", [operands[0], sizes], [f"{prefix}/{part}" for part in "qkv"], axis=-1)
    for i, part in enumerate("qkv"):
        scale = float(fields[f"{part}_scale"])
        if scale > 0:
            step = add_initializer(graph, f"{prefix}/{part}_scale", np.array(scale, np.float32))
            operands[i] = op("DequantizeLinear", [operands[i], step], [f"{prefix}/{part}_real"])[0]
    out_scale = float(fields["out_scale"])
    mixed = f"{prefix}/out" if out_scale > 0 else node.output[0]
    op(
        "MultiHeadAttention",
        operands,
        [mixed],
        _DOMAIN,
        num_heads=fields["num_heads"],
        scale=fields["scale"],
    )
    if out_scale > 0:
        step = add_initializer(graph, f"{prefix}/out_scale", np.array(out_scale, np.float32))
        zero = add_initializer(graph, f"{prefix}/zero", np.array(0, np.int8))
        op("QuantizeLinear", [mixed, step, zero], [node.output[0]])
    return nodes
