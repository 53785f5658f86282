"""A captured graph's inputs: which are fixed, and what their dynamic sizes are called. And what it may not do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from vitc.errors import CaptureError
from vitc.graph.nodes import argument, is_tensor, module_path, where
from vitc.graph.program import BatchRange, DynamicDim
from vitc.graph.sdpa import SDPA, SdpaCall

aten = torch.ops.aten

#: No engine is built for more; torch.export's own bound is 2^63.
_LARGEST = 2**16
_RANDOM = (
    "aten.rand", "aten.bernoulli", "aten.native_dropout", "aten.multinomial", "aten.normal", "aten.uniform",
    "aten.exponential", "aten.rrelu_with_noise",
)  # fmt: skip


def check_graph(module: GraphModule) -> None:
    """Raises CaptureError, with the user's module, for what draws random numbers and for bfloat16."""
    for node in module.graph.nodes:
        if _is_random(node):
            raise CaptureError(
                f"{where(node)} draws random numbers, so no compiled model could agree with it; dropout must be off in "
                "eval mode (if self.training: …)"
            )
        if is_tensor(node) and node.meta["val"].dtype == torch.bfloat16:
            path = module_path(node)
            raise CaptureError(
                f"the model computes in bfloat16{f' in {path}' if path else ''}, which no engine here takes; call "
                "model.float() or model.half(), and leave out autocast: the target's own precision is chosen later"
            )


def _is_random(node: Node) -> bool:
    if node.target is SDPA:
        return SdpaCall.of(node).dropout > 0
    if node.target in (aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default):
        return bool(argument(node, 2, "train", True)) and float(argument(node, 1, "p", 0.0)) > 0
    return str(node.target).startswith(_RANDOM)


def drop_fixed_inputs(module: GraphModule, args: Any, kwargs: Any) -> dict[str, Any]:
    """Takes what is no tensor (flags, numbers, None) out of the graph's inputs, and returns it by name: export has
    written its value into the graph. The module then takes the tensors alone."""
    placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
    fixed = {n.name: n.meta.get("val") for n in placeholders if not is_tensor(n)}
    if not fixed:
        return {}
    for node in placeholders:
        if node.name in fixed:
            node.replace_all_uses_with(None)
            module.graph.erase_node(node)
    kept = pytree.tree_map(lambda leaf: leaf if isinstance(leaf, torch.Tensor) else None, (tuple(args), dict(kwargs)))
    tensors = [leaf for leaf in pytree.tree_leaves(kept) if leaf is not None]
    info = module.graph._codegen.pytree_info  # type: ignore[attr-defined]
    names = [n.name for n in placeholders if n.name not in fixed]
    module.graph._codegen.pytree_info = info._replace(  # type: ignore[attr-defined]
        orig_args=names, in_spec=pytree.tree_structure((tuple(tensors), {}))
    )
    module._forward_pre_hooks.clear()  # they compare with the structure that was
    return fixed


def dynamic_dims(graph: torch.fx.Graph, ranges: Mapping[Any, Any], batch: BatchRange | None) -> dict[str, DynamicDim]:
    """The graph's symbols with their names and ranges. The batch is dimension 0 of the first input that is dynamic
    there; others keep the name that the exported program gave them, or are called by the input and the axis."""
    found: dict[str, DynamicDim] = {}
    for node in graph.nodes:
        if node.op != "placeholder" or not is_tensor(node):
            continue
        for axis, size in enumerate(node.meta["val"].shape):
            symbol = str(size)
            if not isinstance(size, torch.SymInt) or symbol in found or not symbol.isidentifier():
                continue
            taken = {d.name for d in found.values()}
            is_batch = axis == 0 and "batch" not in taken
            name = "batch" if is_batch else _own_name(size, node, axis)
            if name in taken or (name == "batch" and not is_batch):
                name = f"{node.name}_{axis}"
            found[symbol] = DynamicDim(name, batch if is_batch and batch is not None else _range(size, ranges))
    return found


def _own_name(size: torch.SymInt, node: Node, axis: int) -> str:
    """What Dim called it when the program was exported; not kept in a file."""
    environment = size.node.shape_env
    names = getattr(environment, "source_name_to_debug_name", {})
    for source in getattr(environment, "var_to_sources", {}).get(size.node.expr, ()):
        name = source.name() if callable(source.name) else source.name
        if str(names.get(name, "")).isidentifier():
            return str(names[name])
    return f"{node.name}_{axis}"


def _range(size: torch.SymInt, ranges: Mapping[Any, Any]) -> BatchRange:
    bounds = ranges.get(size.node.expr)
    if bounds is None:
        return BatchRange(1, _LARGEST)
    return BatchRange(max(1, int(bounds.lower)), int(min(bounds.upper, _LARGEST)))
