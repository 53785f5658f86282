"""The structure a model returns, as torch's pytree and as the JSON tree a bundle stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from torch.utils import _pytree as pytree

from vitc.errors import InputError
from vitc.graph.nodes import is_tensor
from vitc.graph.program import Program
from vitc.lowering.onnx.model import output_names


def flat_leaves(program: Program) -> Sequence[Any]:
    """The graph's flat outputs: nodes, and what the model returns besides tensors (None, numbers)."""
    output = next(n for n in program.graph.nodes if n.op == "output")
    leaves: Sequence[Any] = output.args[0]
    return leaves


def rebuild(program: Program, tensors: Sequence[Any]) -> Any:
    """Flat output tensors → what the model returns: a tensor, tuple, dict, or ModelOutput."""
    remaining = iter(tensors)
    leaves = [next(remaining) if is_tensor(leaf) else leaf for leaf in flat_leaves(program)]
    spec = program.graph._codegen.pytree_info.out_spec  # type: ignore[attr-defined]
    return pytree.tree_unflatten(leaves, spec)


def json_tree(program: Program) -> dict[str, Any]:
    """The structure as vitc.bundle.structure describes it."""
    leaves = flat_leaves(program)
    names = iter(output_names(leaves))
    marks = [_Leaf(next(names)) if is_tensor(leaf) else leaf for leaf in leaves]
    spec = program.graph._codegen.pytree_info.out_spec  # type: ignore[attr-defined]
    return _tree(pytree.tree_unflatten(marks, spec))


class _Leaf:
    def __init__(self, name: str) -> None:
        self.name = name


def _tree(value: Any) -> dict[str, Any]:
    if isinstance(value, _Leaf):
        return {"kind": "leaf", "name": value.name}
    if is_dataclass(value) and not isinstance(value, type):
        kind = f"{type(value).__module__}:{type(value).__qualname__}"
        items = {f.name: _tree(getattr(value, f.name)) for f in fields(value) if getattr(value, f.name) is not None}
        return {"kind": "dataclass", "type": kind, "items": items}
    if isinstance(value, dict):
        return {"kind": "dict", "items": {str(k): _tree(v) for k, v in value.items()}}
    if isinstance(value, (tuple, list)):
        return {"kind": "list" if isinstance(value, list) else "tuple", "items": [_tree(v) for v in value]}
    return {"kind": "constant", "value": value}


def bind(program: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Call arguments → tensors by input name. Raises InputError naming what is missing or unknown."""
    names = [n.name for n in program.graph.nodes if n.op == "placeholder"]
    flat = [t for t in pytree.tree_leaves(args) if t is not None and not (program.fixed_inputs and _is_flag(t))]
    if len(flat) > len(names):
        raise InputError(f"the model takes {len(names)} inputs ({', '.join(names)}), got {len(flat)}")
    bound = dict(zip(names, flat, strict=False))
    for name, value in kwargs.items():
        if name in program.fixed_inputs:
            if value != program.fixed_inputs[name]:
                raise InputError(
                    f"{name}={value!r} was {program.fixed_inputs[name]!r} when the model was captured, and is fixed; "
                    "compile again with the other value in example_inputs"
                )
            continue
        if value is None:
            continue
        if name not in names:
            raise InputError(f"unknown input {name!r}; the model takes: {', '.join(names)}")
        if name in bound:
            raise InputError(f"input {name!r} is given twice, by position and by name")
        bound[name] = value
    missing = [n for n in names if n not in bound]
    if missing:
        raise InputError(f"missing inputs: {', '.join(missing)}; the model takes: {', '.join(names)}")
    return bound


def _is_flag(value: Any) -> bool:
    """What is no tensor, and so was fixed when the model was captured."""
    return isinstance(value, (bool, int, float, str))
