"""nn.Module → Program at stage 'captured', by torch.export with a dynamic batch."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.export import Dim, ExportedProgram

from vitc.errors import CaptureError, InputError
from vitc.frontend.export_errors import explain, explain_call
from vitc.frontend.graph_inputs import check_graph, drop_fixed_inputs, dynamic_dims
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
    config. Dimension 0 is the batch, dynamic over `batch`, of every input whose size there is that of the first one;
    None, or a range of one size, keeps the sizes fixed. What is no tensor (flags, None) is fixed as given.
    Raises InputError for inputs or a range that the model does not take, CaptureError with the user's source line where
    torch.export finds no single graph.
    """
    if isinstance(model, ExportedProgram):
        return _from_exported(model, target)
    _check_model(model)
    _check_range(batch)
    args, kwargs = _normalize(model, example_inputs)
    _check_call(model, args, kwargs)
    size = _batch_size(args, kwargs)
    if batch is not None and size is None:
        batch = None  # no input has a dimension that could be the batch
    shapes: Any = None
    if batch is not None and size is not None:
        # torch.export takes a dimension of size 1 for a constant, so a dynamic batch needs an example of 2.
        wanted = min(max(size, batch.min, 2), batch.max)
        args, kwargs = (_of_size(tree, size, wanted) for tree in (args, kwargs))
        if batch.min == batch.max:
            batch = None
        else:
            dim = Dim("batch", min=batch.min, max=batch.max)
            shapes = _by_parameter(model, args, kwargs, dim, wanted)
    # A tensor given twice is one input to torch.export, which then reads one of the two alone.
    args, kwargs = torch.utils._pytree.tree_map(
        lambda t: t.detach().clone() if isinstance(t, torch.Tensor) else t, (args, kwargs)
    )
    with torch.no_grad():
        try:
            exported = torch.export.export(model, args, kwargs, dynamic_shapes=shapes)
        except Exception as error:
            raise CaptureError(explain(model, error, batch)) from error
    program = _program(exported, target, batch)
    return program.evolve(preprocessing=infer_preprocessing(model), task=infer_task(model))


def _check_model(model: Any) -> None:
    """Raises InputError for what is no module, CaptureError for one that cannot be captured as it stands."""
    if isinstance(model, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
        raise CaptureError(
            f"the model is TorchScript ({type(model).__name__}), which torch.export does not take; pass the nn.Module "
            "that it was traced or scripted from"
        )
    if not isinstance(model, torch.nn.Module):
        raise InputError(
            f"model must be a torch.nn.Module or a torch.export.ExportedProgram, got {type(model).__name__}"
        )
    if model.training:
        raise CaptureError(
            "the model is in training mode; call model.eval() first, so that dropout and norms are fixed"
        )
    training = [name for name, part in model.named_modules() if part.training]
    if training:
        raise CaptureError(
            f"{len(training)} parts of the model are in training mode, first {training[0]!r}; call model.eval() after "
            "the last train(), so that dropout and norms are fixed"
        )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.device.type != "cpu":
            remedy = "load its weights" if tensor.device.type == "meta" else "call model.to('cpu')"
            raise CaptureError(f"{name!r} is on the device {tensor.device}; {remedy} first: capture runs on the CPU")


def _check_range(batch: BatchRange | None) -> None:
    if batch is not None and not 1 <= batch.min <= batch.max:
        raise InputError(
            f"batch=BatchRange({batch.min}, {batch.max}) is no range; the least must be at least 1 and at most the "
            "greatest, as BatchRange(1, 8)"
        )


def _check_call(model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Runs the model once as it is. Raises InputError, with the reason, if it does not take its example inputs."""
    try:
        inspect.signature(model.forward).bind(*args, **kwargs)
    except TypeError as error:
        takes = f"{type(model).__name__}.forward{inspect.signature(model.forward)}"
        raise InputError(f"{takes} does not take the example inputs: {error}") from error
    try:
        with torch.no_grad():
            model(*args, **kwargs)
    except Exception as error:
        raise InputError(explain_call(model, error, (args, kwargs))) from error


def _from_exported(exported: ExportedProgram, target: Target) -> Program:
    if exported.example_inputs is None:
        raise CaptureError("the exported program carries no example inputs; export it again with torch.export.export")
    return _program(exported, target, None)


def _program(exported: ExportedProgram, target: Target, batch: BatchRange | None) -> Program:
    with warnings.catch_warnings():
        # torch copies its own tree specs in a way that it calls deprecated.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        # An empty table keeps linear, layer_norm, gelu and SDPA whole and only makes the graph functional.
        functional = exported.run_decompositions({})
        _check_unchanged(functional)
        module = functional.module()
    assert isinstance(module, torch.fx.GraphModule)
    graph = module.graph
    for node in list(graph.nodes):
        if node.op == "call_module" and node.target == "_guards_fn":
            graph.erase_node(node)  # checks the export's shapes; vitc checks them with its own message
        elif node.op == "call_function" and "_assert" in str(node.target):
            graph.erase_node(node)
    _type_constants(module)
    check_graph(module)
    args, kwargs = exported.example_inputs or ((), {})
    fixed = drop_fixed_inputs(module, args, kwargs)
    module.recompile()
    flat = tuple(t for t in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor))
    dims = dynamic_dims(graph, exported.range_constraints, batch)
    return Program(
        module=module, stage="captured", target=target, example_inputs=flat, fixed_inputs=fixed, dims=dims,
        batch=next((d.range for d in dims.values() if d.name == "batch"), None),
    )  # fmt: skip


def _check_unchanged(exported: ExportedProgram) -> None:
    """Raises CaptureError for a model that keeps something from one call to the next."""
    signature = exported.graph_signature
    if signature.buffers_to_mutate:
        names = ", ".join(sorted(set(signature.buffers_to_mutate.values())))
        raise CaptureError(
            f"forward writes to the buffer {names}; a compiled model keeps nothing from one call to the next. Leave "
            "the write out in eval mode (if self.training: …)"
        )
    if signature.user_inputs_to_mutate:
        names = ", ".join(sorted(set(signature.user_inputs_to_mutate.values())))
        raise CaptureError(f"forward writes into its input {names}; clone it first, as x = x.clone()")


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


def _batch_size(args: Any, kwargs: Any) -> int | None:
    """Dimension 0 of the first tensor that has one."""
    leaves = torch.utils._pytree.tree_leaves((args, kwargs))
    return next((int(t.shape[0]) for t in leaves if isinstance(t, torch.Tensor) and t.ndim), None)


def _batched(tensor: Any, size: int) -> bool:
    """Whether dimension 0 is the batch: a scalar has none, and a table that all images share has another size."""
    return isinstance(tensor, torch.Tensor) and tensor.ndim > 0 and tensor.shape[0] == size


def _of_size(tree: Any, size: int, wanted: int) -> Any:
    """The tensors of a batch of `size` repeated or cut to `wanted`."""

    def change(t: Any) -> Any:
        if not _batched(t, size) or size == wanted:
            return t
        return t.repeat(-(-wanted // size), *[1] * (t.ndim - 1))[:wanted]

    return torch.utils._pytree.tree_map(change, tree)


def _dynamic(value: Any, dim: Any, size: int) -> Any:
    return torch.utils._pytree.tree_map(lambda t: {0: dim} if _batched(t, size) else None, value)


def _by_parameter(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dim: Any, size: int
) -> dict[str, Any]:
    """dynamic_shapes by the names of forward's parameters."""
    bound = inspect.signature(model.forward).bind(*args, **kwargs)
    shapes: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        shapes[name] = (
            {k: _dynamic(v, dim, size) for k, v in value.items()}
            if kind is kind.VAR_KEYWORD
            else _dynamic(value, dim, size)
        )
    return shapes
