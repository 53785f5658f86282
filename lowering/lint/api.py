"""vitc.lint: a model in, a report out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx

from vitc.errors import InputError
from vitc.lowering.gate import admit
from vitc.lowering.lint import attention, elementwise, gemm
from vitc.lowering.lint.graph import LARGE, LintGraph, flattened, without_weights
from vitc.lowering.lint.report import LintReport, Verdict
from vitc.lowering.lint.rules import Engine, engine_for, engine_named, rules
from vitc.targets import Target
from vitc.targets import load as load_target

#: Domains of operators whose engines are told apart by the other rules.
STANDARD = ("", "ai.onnx", "vitc")


def lint(
    model: str | Path | bytes | onnx.ModelProto, target: str | Path | Target = "orin", *, engine: str | None = None
) -> LintReport:
    """What an engine will do with an ONNX model, vitc's or a foreign one.

    model: a path, the bytes of a file, or a ModelProto (left as it is).
    target: a name of `vitc.available_targets()`, a path to a TOML file, or a Target.
    engine: "tensorrt 10.3", "tensorrt-rtx 1.7", "openvino" …; None: the lowest TensorRT the target may meet, or the CPU
        engine that vitc would take on this machine.
    Raises InputError where the model is not to be read, TargetError and VitcError for unknown targets and engines.
    """
    device = load_target(target)
    source, proto = _load(model)
    quantized = any(node.op_type == "QuantizeLinear" for node in proto.graph.node)
    chosen = engine_named(engine) if engine is not None else engine_for(device, quantized)
    known = rules()
    verdicts = []
    graph = LintGraph(proto)
    places = {node.name: i for i, node in enumerate(graph.nodes)}
    for rule, nodes in _found(graph, chosen):
        outcome = known[rule].outcome(chosen)
        if outcome is not None:
            verdicts.append(Verdict(known[rule], outcome, tuple(n.name for n in nodes), graph.module(nodes[0])))
    verdicts.sort(key=lambda verdict: places[verdict.nodes[0]])
    return LintReport(source, device.name, chosen, tuple(verdicts))


def _found(graph: LintGraph, engine: Engine) -> Iterator[tuple[str, list[onnx.NodeProto]]]:
    """(rule id, nodes) for everything the rules speak of."""
    inside: set[str] = set()
    fused: set[str] = set()
    for spelled in attention.spelled_attentions(graph):
        rule = attention.spelled_rule(graph, spelled)
        yield rule, [spelled.scores, spelled.mix]
        inside.update((*spelled.between, spelled.softmax.name))
        outcome = rules()[rule].outcome(engine)
        if outcome is not None and outcome.kind is not None:
            fused.update((spelled.scores.name, spelled.mix.name))  # one layer: the products have none of their own
    for node in graph.nodes:
        if attention.is_vit_attention(node):
            yield attention.vit_attention_rule(graph, node), [node]
        elif gemm.is_product(node) and node.name not in fused:
            yield gemm.product_rule(graph, node), [node]
        elif node.op_type == "Conv":
            yield gemm.convolution_rule(graph, node), [node]
        elif node.op_type in gemm.INTEGER_OPS:
            yield "integer-operator", [node]
        elif node.op_type == "Attention" and not node.domain:
            yield "attention-operator", [node]
        elif node.op_type == "GridSample":
            yield "grid-sample", [node]
        elif node.domain not in STANDARD:
            yield "foreign-operator", [node]
    for rule, node in elementwise.findings(graph, frozenset(inside)):
        yield rule, [node]


def _load(model: str | Path | bytes | onnx.ModelProto) -> tuple[str, onnx.ModelProto]:
    """A name for the model, and a copy without its weights."""
    if isinstance(model, onnx.ModelProto):
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        return "the model", without_weights(flattened(admit(copy, InputError, largest=LARGE)))
    if isinstance(model, bytes):
        return "the model", without_weights(flattened(admit(model, InputError, largest=LARGE)))
    path = Path(model)
    if not path.is_file():
        raise InputError(f"there is no ONNX file {str(model)!r}; export one, or name the model.onnx of a bundle")
    return path.name, without_weights(flattened(admit(path, InputError, largest=LARGE)))
