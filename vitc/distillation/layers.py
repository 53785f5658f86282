"""The layers of a model by the user's module paths, and a view of the model that also returns what they compute.

A model is an nn.Module with submodules, or an FX graph of vitc's, which has none: there a layer is all nodes that carry
its path, and its output is what the last of them computes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

import vitc.graph.ops  # noqa: F401  registers torch.ops.vitc
from vitc.distillation.batches import Batch
from vitc.distillation.config import Layer
from vitc.errors import InputError, unknown
from vitc.graph.nodes import is_tensor, module_path, val
from vitc.graph.structure import tensors_of

_ATTENTION_NODES = (
    torch.ops.aten.scaled_dot_product_attention.default,
    torch.ops.aten.softmax.int,
    torch.ops.vitc.attention.default,
)
_ATTENTION_CALLS = (
    torch.nn.functional.scaled_dot_product_attention,
    torch.nn.functional.multi_head_attention_forward,
    torch._native_multi_head_attention,
    torch.nn.functional.softmax,
    torch.softmax,
    torch.Tensor.softmax,
)


def is_graph(model: torch.nn.Module) -> bool:
    """True for what vitc.frontend.capture and vitc.prune return."""
    return isinstance(model, GraphModule) and not any(n.op == "call_module" for n in model.graph.nodes)


class Layers:
    """The layers of one model, `whose` in messages. `batch` is run once where the model is no graph, to see which
    modules attend."""

    def __init__(self, model: torch.nn.Module, whose: str, batch: Batch) -> None:
        self.whose = whose
        if is_graph(model):
            self.paths = tuple(_nodes_by_path(model.graph))  # type: ignore[arg-type]
            self.attentions = _attentions_of_graph(model.graph)  # type: ignore[arg-type]
        else:
            self.paths = tuple(name for name, _ in model.named_modules() if name)
            self.attentions = _attentions_of_module(model, batch)

    def path(self, layer: Layer) -> str:
        """The module path a layer stands for. Raises InputError listing what there is."""
        if isinstance(layer, str):
            if layer not in self.paths:
                raise InputError(unknown(f"layer of the {self.whose}", layer, self.paths))
            return layer
        count = len(self.attentions)
        if not -count <= layer < count:
            known = f"it has {count}: {', '.join(self.attentions)}" if count else "it has none"
            raise InputError(
                f"the {self.whose} has no attention of index {layer}; {known}; name a layer by its path instead"
            )
        return self.attentions[layer]


def tapped(model: torch.nn.Module, paths: Sequence[str]) -> torch.nn.Module:
    """A module over the same weights that returns (the model's output, a tuple of the outputs of these layers)."""
    return _tapped_graph(model, paths) if is_graph(model) else TappedModule(model, paths)  # type: ignore[arg-type]


class TappedModule(torch.nn.Module):
    """An nn.Module and what some of its submodules return, seen by forward hooks that `release` removes."""

    def __init__(self, model: torch.nn.Module, paths: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self._paths = tuple(paths)
        self._seen: dict[str, torch.Tensor] = {}
        self._hooks = [model.get_submodule(path).register_forward_hook(self._hook(path)) for path in paths]

    def _hook(self, path: str) -> Any:
        def see(module: torch.nn.Module, args: Any, output: Any) -> None:
            self._seen[path] = next(tensors_of(output))

        return see

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Any, tuple[torch.Tensor, ...]]:
        self._seen.clear()
        output = self.model(*args, **kwargs)
        for path in self._paths:
            if path not in self._seen:
                raise InputError(f"layer {path!r} did not run in the forward pass; choose one that does")
        return output, tuple(self._seen[path] for path in self._paths)

    def release(self) -> None:
        for hook in self._hooks:
            hook.remove()


def _tapped_graph(module: GraphModule, paths: Sequence[str]) -> GraphModule:
    graph = Graph()
    copies: dict[Node, Node] = {}
    leaves = graph.graph_copy(module.graph, copies)
    nodes = _nodes_by_path(module.graph)
    graph.output([*leaves, *(copies[nodes[path]] for path in paths)])  # type: ignore[misc]
    codegen = copy.copy(module.graph._codegen)
    info = codegen.pytree_info  # type: ignore[attr-defined]
    whole = pytree.tree_unflatten([0] * info.out_spec.num_leaves, info.out_spec)
    spec = pytree.tree_structure((whole, (0,) * len(paths)))
    codegen.pytree_info = info._replace(out_spec=spec)  # type: ignore[attr-defined]
    graph._codegen = codegen
    return GraphModule(module, graph, class_name="Tapped")


def _prefixes(path: str) -> Iterator[str]:
    parts = path.split(".")
    for i in range(len(parts)):
        yield ".".join(parts[: i + 1])


def _nodes_by_path(graph: Graph) -> dict[str, Node]:
    """The last node with a floating-point tensor of each module path, in the order in which the modules begin."""
    found: dict[str, Node] = {}
    for node in graph.nodes:
        if (
            node.op == "call_function"
            and is_tensor(node)
            and val(node).is_floating_point()
            and (path := module_path(node))
        ):
            for prefix in _prefixes(path):
                found[prefix] = node
    return found


def _attentions_of_graph(graph: Graph) -> tuple[str, ...]:
    paths = [module_path(n) for n in graph.nodes if n.op == "call_function" and n.target in _ATTENTION_NODES]
    return tuple(dict.fromkeys(_without_softmax(path, path.rpartition(".")[2] == "softmax") for path in paths if path))


def _attentions_of_module(model: torch.nn.Module, batch: Batch) -> tuple[str, ...]:
    """The modules in whose forward attention is computed: each the innermost that runs at the time."""
    running: list[str] = []
    found: dict[str, None] = {}
    softmax = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Softmax)}

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in _ATTENTION_CALLS and running and running[-1]:
                found[_without_softmax(running[-1], running[-1] in softmax)] = None
            return func(*args, **(kwargs or {}))

    with _named_calls(model, running), torch.no_grad(), Watch():
        batch.call(model)
    return tuple(path for path in found if path)


@contextmanager
def _named_calls(model: torch.nn.Module, running: list[str]) -> Iterator[None]:
    """`running` holds the names of the modules that run, innermost last."""

    def leave(*args: Any) -> None:
        running.pop()

    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda *args, name=name: running.append(name)))
        hooks.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _without_softmax(path: str, is_softmax: bool) -> str:
    """An nn.Softmax is no attention: the module around it is."""
    return path.rpartition(".")[0] if is_softmax else path
