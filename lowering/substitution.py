"""Plugin substitution: match, then replace, on the ONNX graph with onnx-graphsurgeon.

The emitter writes every attention as a call of the function vitc::VitAttention, which any engine can inline. Here those
the kernel can serve are matched, with the reason for each that is not, and marked for the plugin: TensorRT's parser
takes the plugin only where a node says `plugin_namespace`, and inlines the function otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from vitc.errors import LoweringError
from vitc.kernels.fields import AttentionFields, attention_spec
from vitc.kernels.variants import HEAD_DIMS
from vitc.lowering.onnx_attributes import attributes


@dataclass(frozen=True)
class Match:
    """One attention of the graph; `refusal` says why the plugin does not take it, or is None."""

    node: str
    fields: AttentionFields
    refusal: str | None = None

    @property
    def form(self) -> str:
        """What it is, in a report's words."""
        f = self.fields
        bias = ", bias" if f.has_bias else ""
        causal = ", causal" if f.causal else ""
        return f"{'int8' if f.int8_in else 'float'} {f.layout}{bias}{causal}, {f.num_heads} heads of {f.head_dim}"


def match(model: onnx.ModelProto) -> tuple[Match, ...]:
    """Every VitAttention call, in order, with the verdict."""
    name = attention_spec().name
    return tuple(_match(node) for node in gs.import_onnx(model).nodes if node.op == name)


def _match(node: gs.Node) -> Match:
    known = {spec.name for spec in attention_spec().fields}
    fields = AttentionFields.from_attributes({k: v for k, v in node.attrs.items() if k in known})
    refusal = None
    if fields.head_dim not in HEAD_DIMS:
        refusal = f"head size {fields.head_dim} is none of {', '.join(map(str, HEAD_DIMS))}"
    elif fields.scale < 0:
        refusal = "its scale is negative"
    elif not fields.int8_in and node.outputs[0].dtype == np.float32:
        refusal = "float32 in and out; the kernel takes INT8 and FP16"
    return Match(node.name, fields, refusal)


def replace(model: onnx.ModelProto, matches: Sequence[Match]) -> int:
    """Marks the matched nodes for the plugin, in place; returns how many."""
    spec = attention_spec()
    wanted = {m.node for m in matches if m.refusal is None}
    marked = 0
    for node in model.graph.node:
        if node.op_type == spec.name and node.domain == spec.domain and node.name in wanted:
            node.attribute.append(onnx.helper.make_attribute("plugin_namespace", spec.plugin_namespace))
            node.attribute.append(onnx.helper.make_attribute("plugin_version", spec.plugin_version))
            marked += 1
    if marked != len(wanted):
        raise LoweringError(f"{len(wanted)} attentions matched but {marked} were found in the model; match it again")
    return marked


def plugin_nodes(model: onnx.ModelProto) -> tuple[AttentionFields, ...]:
    """The fields of the nodes that are marked for the plugin."""
    spec = attention_spec()
    marked = []
    for node in model.graph.node:
        if node.op_type != spec.name or node.domain != spec.domain:
            continue
        given = attributes(node)
        if "plugin_namespace" in given:
            marked.append(AttentionFields.from_attributes(given))
    return tuple(marked)
