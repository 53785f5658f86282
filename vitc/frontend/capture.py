"""nn.Module → Program at stage 'captured', by torch.export with a dynamic batch."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.export import Dim, ExportedProgram

from vitc.errors import CaptureError, InputError
from vitc.frontend.model_config import infer_example_inputs, infer_preprocessing
from vitc.frontend.model_task import infer_task
from vitc.graph.program import BatchRange, Program

if TYPE_CHECKING:
    from vitc.targets import Target


def capture(
    model: torch.nn.Module | ExportedProgram,
    target: Target,
    example_inputs: Sequence[Any] | Mapping[str, Any] | torch.Tensor | None = None,
    batch: BatchRange | None = BatchRange(),
) -> Program:
    """The model as one ATen graph.

    `example_inputs`: a tensor, a tuple of positional inputs, or a dict of keyword inputs; None reads the model's
    config. Dimension 0 of every input is the batch, dynamic over `batch`; None keeps the example's sizes fixed.
    Raises CaptureError with the user's source line where torch.export finds no single graph.
    """
    if isinstance(model, ExportedProgram):
        return _from_exported(model, target)
    if not isinstance(model, torch.nn.Module):
        raise InputError(
            f"model must be a torch.nn.Module or a torch.export.ExportedProgram, got {type(model).__name__}"
        )
    if model.training:
        raise CaptureError(
            "the model is in training mode; call model.eval() first, so that dropout and norms are fixed"
        )
    args, kwargs = _normalize(model, example_inputs)
    args, kwargs = _at_least_two(args, batch), _at_least_two(kwargs, batch)
    shapes: Any = None
    if batch is not None:
        dim = Dim("batch", min=batch.min, max=batch.max)
        shapes = _by_parameter(model, args, kwargs, dim)
    with torch.no_grad():
        try:
            exported = torch.export.export(model, args, kwargs, dynamic_shapes=shapes)
        except Exception as error:
            raise CaptureError(_explain(model, error, batch)) from error
    program = _program(exported, target, args, kwargs, batch)
    return program.evolve(preprocessing=infer_preprocessing(model), task=infer_task(model))


def _from_exported(exported: ExportedProgram, target: Target) -> Program:
    if exported.example_inputs is None:
        raise CaptureError("the exported program carries no example inputs; export it again with torch.export.export")
    args, kwargs = exported.example_inputs
    bounds = list(exported.range_constraints.values())
    batch = BatchRange(max(1, int(bounds[0].lower)), int(min(bounds[0].upper, 2**16))) if bounds else None
    return _program(exported, target, args, kwargs, batch)


def _program(exported: ExportedProgram, target: Target, args: Any, kwargs: Any, batch: BatchRange | None) -> Program:
    with warnings.catch_warnings():
        # torch copies its own tree specs in a way that it calls deprecated.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        # An empty table keeps linear, layer_norm, gelu and SDPA whole and only makes the graph functional.
        module = exported.run_decompositions({}).module()
    assert isinstance(module, torch.fx.GraphModule)
    graph = module.graph
    for node in list(graph.nodes):
        if node.op == "call_module" and node.target == "_guards_fn":
            graph.erase_node(node)  # checks the export's shapes; vitc checks them with its own message
        elif node.op == "call_function" and "_assert" in str(node.target):
            graph.erase_node(node)
    _type_constants(module)
    module.recompile()
    flat = tuple(t for t in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor))
    return Program(module=module, stage="captured", target=target, example_inputs=flat, batch=batch)


def _type_constants(module: torch.fx.GraphModule) -> None:
    """get_attr nodes come without a value from ep.module(): give them one, so that all nodes are typed."""
    from torch._guards import detect_fake_mode

    from vitc.graph.nodes import constant

    vals = [n.meta["val"] for n in module.graph.nodes if isinstance(n.meta.get("val"), torch.Tensor)]
    fake_mode = detect_fake_mode(vals)
    assert fake_mode is not None
    for node in module.graph.nodes:
        if node.op == "get_attr" and not isinstance(node.meta.get("val"), torch.Tensor):
            node.meta["val"] = fake_mode.from_tensor(constant(module, node), static_shapes=True)


def _normalize(model: torch.nn.Module, given: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if given is None:
        given = infer_example_inputs(model)
    if isinstance(given, torch.Tensor):
        return (given,), {}
    if isinstance(given, Mapping):
        return (), dict(given)
    if isinstance(given, Sequence):
        return tuple(given), {}
    raise InputError(f"example_inputs must be a tensor, a tuple or a dict, got {type(given).__name__}")


def _at_least_two(tree: Any, batch: BatchRange | None) -> Any:
    """torch.export specialises a dimension of size 1, so a dynamic batch needs an example of 2."""
    if batch is None or batch.max == 1:
        return tree
    return torch.utils._pytree.tree_map(
        lambda t: t.repeat(2, *[1] * (t.ndim - 1)) if isinstance(t, torch.Tensor) and t.ndim and t.shape[0] == 1 else t,
        tree,
    )


def _dynamic(value: Any, dim: Any) -> Any:
    return torch.utils._pytree.tree_map(lambda t: {0: dim} if isinstance(t, torch.Tensor) and t.ndim else None, value)


def _by_parameter(model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dim: Any) -> dict[str, Any]:
    """dynamic_shapes by the names of forward's parameters."""
    import inspect

    bound = inspect.signature(model.forward).bind(*args, **kwargs)
    shapes: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        shapes[name] = (
            {k: _dynamic(v, dim) for k, v in value.items()} if kind is kind.VAR_KEYWORD else _dynamic(value, dim)
        )
    return shapes


def _explain(model: torch.nn.Module, error: Exception, batch: BatchRange | None) -> str:
    """What torch.export says, shortened to its reason and the user's own line."""
    text = str(error)
    reason = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    places = re.findall(r'File "([^"]+)", line (\d+), in (\w+)', text)
    own = [p for p in places if "/torch/" not in p[0]]
    at = f" at {own[-1][0]}:{own[-1][1]} in {own[-1][2]}" if own else ""
    remedy = (
        "Data-dependent control flow must become tensor code (torch.where, torch.cond)."
        if "data-dependent" in text.lower() or "GuardOnDataDependent" in text
        else "If the batch size is used as a Python number (len(x) is one; x.shape[0] is not), change that, or compile "
        "with batch=None for a fixed size."
        if batch is not None
        else "Rewrite that line with tensor operations."
    )
    return f"torch.export cannot capture {type(model).__name__}{at}: {reason}. {remedy}"
