"""From Programs to the explorer's records. The one module of this folder that reads graphs of torch, which it imports
when it is called."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vitc.explorer.records import EngineView, Layer, Node, Step, Value, Weight

if TYPE_CHECKING:
    from vitc.cost import Prediction
    from vitc.graph.program import Program
    from vitc.lowering.lint import LintReport
    from vitc.lowering.tensorrt.layers import LayerTable
    from vitc.pipeline.base import Pass

#: Images of the calibration data that the noise of each quantized tensor is measured on.
_IMAGES = 2
_BINS = 48


@dataclass
class Recorder:
    """An instrument that keeps the program after every pass. Graphs are small and weights are shared, so what is kept
    is little; a weight that a pass replaced stays in memory as long as this does."""

    programs: list[Program] = field(default_factory=list)

    def before(self, item: Pass, program: Program) -> None:
        """The start, and again where a program was changed between two pipelines (calibration given, training), or a
        search goes back to try other passes."""
        first = len(self.programs[0].journal) if self.programs else 0
        self.programs[max(0, len(program.journal) - first) :] = [program]

    def after(self, item: Pass, before: Program, after: Program) -> None:
        self.programs.append(after)


@dataclass(frozen=True)
class Quantized:
    """A tensor that becomes INT8, on calibration data: its histogram of magnitudes up to `top`, its range, what lies
    beyond, and signal over noise in dB."""

    node: str
    source: str
    module: str
    range: float
    top: float
    bins: tuple[int, ...]
    clipped: float
    noise: float


def steps_of(programs: Sequence[Program], deviations: Sequence[float] = ()) -> list[Step]:
    """One step per program, which may be several passes on. `deviations`: as the numerics instrument found them."""
    digests: dict[int, tuple[Any, str]] = {}
    steps = []
    for i, program in enumerate(programs):
        done = program.journal[len(programs[i - 1].journal) :] if i else ()
        steps.append(
            Step(
                title=",".join(entry.pass_text for entry in done) or program.stage,
                stage=program.stage,
                nodes=tuple(_nodes(program, digests)),
                notes=tuple(note for entry in done for note in entry.notes),
                values=_costs(program),
                seconds=sum(entry.seconds for entry in done) if done else None,
                deviation=deviations[i - 1] if i and i <= len(deviations) else None,
            )
        )
    return steps


def _nodes(program: Program, digests: dict[int, tuple[Any, str]]) -> Iterable[Node]:
    from vitc.graph.nodes import module_path
    from vitc.graph.printer import op_name, type_text

    symbols: dict[str, str] = {}
    for node in program.graph.nodes:
        if node.op == "get_attr":
            continue
        read = [n for n in node.all_input_nodes if n.op != "get_attr"]
        weights = [_weight(program, n, digests, symbols) for n in node.all_input_nodes if n.op == "get_attr"]
        sources = node.meta.get("from_node") or ()
        yield Node(
            name=node.name,
            op={"placeholder": "input", "output": "output"}.get(node.op) or op_name(node),
            path=tuple(filter(None, module_path(node).split("."))) if node.op == "call_function" else (),
            type=type_text(node, symbols) if node.op != "output" else "",
            inputs=tuple(n.name for n in read),
            weights=tuple(weights),
            options=_options(node) if node.op == "call_function" else "",
            made_by=str(node.meta.get("made_by", "")),
            origin=str(sources[-1].name) if sources else node.name,
        )


def _options(node: Any) -> str:
    """The operands that are neither nodes nor weights, in their places."""
    from torch.fx.node import map_arg

    from vitc.graph.printer import operand_text

    def shown(value: Any) -> Any:
        return map_arg(value, lambda n: "@" if n.op == "get_attr" else "%")

    parts = [operand_text(shown(a)) for a in node.args]
    parts += [f"{key}={operand_text(shown(value))}" for key, value in node.kwargs.items()]
    return ", ".join(parts)


def _weight(program: Program, node: Any, digests: dict[int, tuple[Any, str]], symbols: dict[str, str]) -> Weight:
    from vitc.graph.fingerprint import digest
    from vitc.graph.nodes import constant
    from vitc.graph.printer import type_text

    tensor = constant(program.module, node)
    key = hash((tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()), str(tensor.dtype), tensor._version))
    if key not in digests:
        digests[key] = tensor, digest(tensors=(tensor,))  # the tensor is kept, so its address stays its own
    return Weight(str(node.target), type_text(node, symbols), digests[key][1])


def _costs(program: Program) -> dict[str, dict[str, Value]]:
    """What each operator is predicted to cost on the target, batch 1."""
    values: dict[str, dict[str, Value]] = {
        name: {} for name in ("ms", "flops", "bytes", "weights", "precision", "int8", "bound")
    }
    for op in predicted(program).ops:
        cost = op.cost
        values["ms"][cost.name] = op.ms
        values["flops"][cost.name] = float(cost.flops)
        values["bytes"][cost.name] = float(cost.bytes_read + cost.bytes_written + cost.weight_bytes)
        values["weights"][cost.name] = float(cost.weight_bytes)
        values["bound"][cost.name] = op.bound
        if cost.kind in ("gemm", "conv", "attention"):
            values["precision"][cost.name] = cost.dtype
            values["int8"][cost.name] = {"int8": 1.0, "int8+fp16": 0.5}.get(cost.dtype, 0.0)
    return values


def predicted(program: Program) -> Prediction:
    """The cost model's word on a program as it stands."""
    from vitc.cost import predict
    from vitc.cost.count import op_costs
    from vitc.lowering.cpu.rates import measured_here

    return predict(op_costs(program), measured_here(program.target))


def quantized_tensors(program: Program) -> list[Quantized]:
    """Every activation that becomes INT8 in a quantized program, seen on a few calibration images (the example inputs
    where the program has none)."""
    import torch
    from torch.fx import Interpreter

    from vitc.graph.nodes import is_constant, module_path

    found: list[Quantized] = []

    class Watch(Interpreter):
        def run_node(self, node: Any) -> Any:
            if node.target is torch.ops.vitc.quantize.default and not is_constant(node.args[0]):
                (x, scale), axis = self.fetch_args_kwargs_from_env(node)[0][:2], node.args[2]
                if scale.ndim == 0:
                    found.append(_quantized(node, module_path(node), x, scale, axis))
            return super().run_node(node)

    with torch.no_grad():
        Watch(program.module).run(*_images(program), enable_io_processing=False)
    return found


def _images(program: Program) -> tuple[Any, ...]:
    if program.calibration is None:
        return program.example_inputs
    batch = next(iter(program.calibration))
    return tuple(t[:_IMAGES] for t in batch) if program.batch is not None else tuple(batch)


def _quantized(node: Any, module: str, x: Any, scale: Any, axis: int) -> Quantized:
    import torch

    values = x.detach().float().flatten()
    back = torch.ops.vitc.dequantize(torch.ops.vitc.quantize(values, scale.float(), axis), scale.float(), axis)
    noise, signal = float((values - back).square().sum()), float(values.square().sum())
    limit = 127 * float(scale)
    top = max(float(values.abs().max()), limit, 1e-30)
    bins = torch.histc(values.abs(), _BINS, 0.0, top)
    return Quantized(
        node=node.name,
        source=node.args[0].name,
        module=module,
        range=limit,
        top=top,
        bins=tuple(int(n) for n in bins),
        clipped=float((values.abs() > limit + float(scale) / 2).float().mean()),
        noise=10 * math.log10(signal / noise) if noise and signal else 200.0,
    )


def pruned_shares(program: Program) -> dict[str, Value]:
    """Node → the share of its block's weights that pruning took away; {} where nothing was pruned."""
    from vitc.cost.records import block_of
    from vitc.graph.nodes import module_path

    plan = program.pruning
    if plan is None:
        return {}
    shares = {
        name: 1 - (plan.after[name].params if name in plan.after else 0.0) / cost.params
        for name, cost in plan.before.items()
        if cost.params
    }
    return {
        n.name: shares[block]
        for n in program.graph.nodes
        if n.op == "call_function" and (block := block_of(module_path(n))) in shares
    }


def lint_values(report: LintReport, origins: Mapping[str, str]) -> dict[str, Value]:
    """Node → the worst that the lint says of what it was lowered to."""
    order = ("good", "note", "warning", "error")
    found: dict[str, Value] = {}
    for verdict in report.verdicts:
        for name in verdict.nodes:
            node = origins.get(name, name)
            worst = max(order.index(str(found.get(node, "good"))), order.index(verdict.severity))
            found[node] = order[worst]
    return found


def engine_view(title: str, table: LayerTable, report: LintReport, origins: Mapping[str, str]) -> EngineView:
    """A built engine beside the nodes it came from, and what was predicted for them. `report`: the lint for the engine
    that built it."""
    from vitc.lowering.lint import compare

    kinds = {name: kind.value for name, kind in report.kinds().items()}
    other = {difference.node for difference in compare(report, table).differences}
    layers = []
    for layer in table.layers:
        named = [n for n in layer.nodes if n in kinds]
        layers.append(
            Layer(
                name=layer.name,
                kind=layer.kind.value,
                nodes=tuple(dict.fromkeys(origins[n] for n in layer.nodes if n in origins)),
                predicted=", ".join(dict.fromkeys(kinds[n] for n in named)),
                differs=any(n in other for n in named),
                detail=layer.tactic or layer.type,
            )
        )
    return EngineView(title, tuple(layers))


def built_values(view: EngineView, report: LintReport, origins: Mapping[str, str]) -> dict[str, Value]:
    """Node → whether the engine made of it what was predicted."""
    predicted = {origins[name] for name in report.kinds() if name in origins}
    differs = {node for layer in view.layers if layer.differs for node in layer.nodes if node in predicted}
    return {
        node: "not predicted" if node not in predicted else "differs" if node in differs else "as predicted"
        for layer in view.layers
        for node in layer.nodes
    }
