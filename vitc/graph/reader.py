"""The way back from a text dump: a Program that runs, and that passes go on from.

A dump holds the graph and the types of its weights, not the weights: they are given, or stood in for.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.fx.node import map_arg

import vitc.graph.ops  # noqa: F401  registers torch.ops.vitc
from vitc.errors import InputError
from vitc.graph.printer import DTYPES
from vitc.graph.program import BatchRange, Program
from vitc.targets import Target
from vitc.targets import load as load_target

_HEAD = re.compile(r"# stage (?P<stage>[\w-]+)")
_TARGET = re.compile(r"# target (?P<target>\S+), batch (?:(?P<min>\d+) to (?P<max>\d+)|fixed)$")
_NODE = re.compile(r"%(?P<name>\w+) : (?P<type>.*?) = (?P<op>[\w.]+)(?:\((?P<operands>.*)\))?(?:  # (?P<path>\S+))?$")
_WEIGHT = re.compile(r"@(?P<name>\S+) : (?P<type>\S.*)$")
_TYPE = re.compile(r"(?P<dtype>\w+)\[(?P<dims>[^\]]*)\]$")
_TOKEN = re.compile(
    r"""\s*(?:(?P<node>%\w+)|@(?P<weight>[\w.]+)|(?P<text>"(?:[^"\\]|\\.)*")|(?P<key>\w+)=|(?P<mark>[\[\],])|(?P<word>[^\s\[\],=]+))"""
)
_BY_NAME = {text: dtype for dtype, text in DTYPES.items()}
#: What stands in for a weight: small, positive, so that scales divide and norms are finite.
_STAND_IN = 0.02
_EXAMPLE_BATCH = 2


def read_dump(
    path: str | Path, weights: Mapping[str, torch.Tensor] | None = None, target: str | Target | None = None
) -> Program:
    """The Program of a text dump, as `vitc dump` and `compile(dump=…)` write it.

    weights: by the names in the dump, as `program.module.state_dict()`; those that are missing are filled with a small
        constant, so that the graph runs and its numbers mean nothing.
    target: in place of the one that the dump names.

    Raises InputError for a file that is no dump or an older one, naming the line, and for a weight of another shape or
    dtype.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no dump {str(path)!r}; make some with: vitc dump MODEL FOLDER")
    lines = path.read_text(encoding="utf-8").splitlines()
    head = _HEAD.match(lines[0]) if lines else None
    about = _TARGET.match(lines[1]) if len(lines) > 1 else None
    if head is None:
        raise InputError(f"{str(path)!r} is no dump: its first line is not '# stage …'")
    if about is None:
        raise InputError(f"{str(path)!r} is a dump of an older vitc, which does not read back; dump the model again")
    reader = _Reader(path, _parameters(lines, weights or {}))
    for number, line in enumerate(lines[2:], 3):
        if not line.startswith(("@", "#")) and line.strip():
            reader.read(line, number)
    module = GraphModule(reader.root, reader.graph, class_name="Program")
    module.eval()
    named = target or about["target"]
    return Program(
        module=module,
        stage=head["stage"],
        target=named if isinstance(named, Target) else load_target(named),
        example_inputs=tuple(reader.examples),
        batch=BatchRange(int(about["min"]), int(about["max"])) if about["min"] else None,
    )


def _parameters(lines: list[str], given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = {}
    for line in lines:
        if (match := _WEIGHT.match(line)) is None:
            continue
        name, (dtype, dims) = match["name"], _type(match["type"])
        shape = tuple(int(d) for d in dims)
        tensor = given.get(name)
        if tensor is None:
            value = _STAND_IN if dtype.is_floating_point else dtype == torch.bool
            tensor = torch.full(shape, value, dtype=dtype)
        elif (tuple(tensor.shape), tensor.dtype) != (shape, dtype):
            raise InputError(
                f"weight {name!r} is {tensor.dtype} {list(tensor.shape)}, the dump has {dtype} {list(shape)}; give "
                "that of the program which was dumped"
            )
        found[name] = tensor
    return found


def _type(text: str) -> tuple[torch.dtype, list[str]]:
    match = _TYPE.match(text)
    if match is None or match["dtype"] not in _BY_NAME:
        raise InputError(f"a dump has no type {text!r}; known: {', '.join(_BY_NAME)}, as f32[2, 3]")
    return _BY_NAME[match["dtype"]], [d.strip() for d in match["dims"].split(",") if d.strip()]


class _Reader:
    """Builds the graph line by line; every node gets its type by running its operator on fake tensors."""

    def __init__(self, path: Path, weights: dict[str, torch.Tensor]) -> None:
        self.path, self.weights = path, weights
        self.root, self.graph = torch.nn.Module(), Graph()
        self.examples: list[torch.Tensor] = []
        self._nodes: dict[str, Node] = {}
        self._sizes: dict[str, int] = {}  # a dynamic size by name → its example
        self._mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)

    def read(self, line: str, number: int) -> None:
        try:
            self._read(line)
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{self.path}:{number}: cannot read {line[:120]!r}: {error}") from error

    def _read(self, line: str) -> None:
        if line.startswith("return "):
            (result,) = self._operands(line.removeprefix("return "))[0]
            output = self.graph.output(result)
            output.meta["val"] = map_arg(result, lambda n: n.meta["val"])
            return
        match = _NODE.match(line)
        if match is None:
            raise ValueError("it has not the form %name : type = operator(operands)")
        if match["op"] == "input" and match["operands"] is None:
            self._input(match["name"], match["type"])
            return
        args, kwargs = self._operands(match["operands"] or "")
        target = _operator(match["op"])
        node = self.graph.create_node("call_function", target, tuple(args), kwargs, name=match["name"])
        fake_args: Any = map_arg(node.args, lambda n: n.meta["val"])
        fake_kwargs: Any = map_arg(node.kwargs, lambda n: n.meta["val"])
        with self._mode:
            node.meta["val"] = target(*fake_args, **fake_kwargs)
        if match["path"]:
            node.meta["nn_module_stack"] = {match["path"]: (match["path"], "")}
        self._nodes[match["name"]] = node

    def _input(self, name: str, text: str) -> None:
        dtype, dims = _type(text)
        free = [not d.isdigit() for d in dims]
        for dim in dims:
            if not dim.isdigit():
                self._sizes.setdefault(dim, _EXAMPLE_BATCH + len(self._sizes))
        shape = [int(d) if d.isdigit() else self._sizes[d] for d in dims]
        example = torch.zeros(shape, dtype=dtype)
        if dtype.is_floating_point:
            example = torch.randn(shape, generator=torch.Generator().manual_seed(len(self.examples))).to(dtype)
        sizes: Any = StatelessSymbolicContext(
            dynamic_sizes=[DimDynamic.DYNAMIC if f else DimDynamic.STATIC for f in free]
        )
        node = self.graph.placeholder(name)
        node.meta["val"] = self._mode.from_tensor(example, symbolic_context=sizes)
        self.examples.append(example)
        self._nodes[name] = node

    def _weight(self, name: str) -> Node:
        """The node of a weight, made where it is first read."""
        if (known := self._nodes.get(f"@{name}")) is not None:
            return known
        if name not in self.weights:
            raise ValueError(f"the dump does not say what type @{name} has")
        owner: torch.nn.Module = self.root
        *prefix, leaf = name.split(".")
        for part in prefix:
            if not hasattr(owner, part):
                owner.add_module(part, torch.nn.Module())
            owner = getattr(owner, part)
        tensor = self.weights[name].detach()
        if tensor.is_floating_point():
            owner.register_parameter(leaf, torch.nn.Parameter(tensor, requires_grad=False))
        else:
            owner.register_buffer(leaf, tensor)
        # Names of operators are the dump's: that of a weight must not take one.
        node = self.graph.create_node("get_attr", name, name=f"weight_{len(self._nodes)}_{leaf}")
        node.meta["val"] = self._mode.from_tensor(tensor, static_shapes=True)
        self._nodes[f"@{name}"] = node
        return node

    def _operands(self, text: str) -> tuple[list[Any], dict[str, Any]]:
        tokens = list(_tokens(text))
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        at = 0
        while at < len(tokens):
            if tokens[at] == ("mark", ","):
                at += 1
                continue
            key = None
            if tokens[at][0] == "key":
                key, at = tokens[at][1], at + 1
            value, at = self._value(tokens, at)
            if key is None:
                args.append(value)
            else:
                kwargs[key] = value
        return args, kwargs

    def _value(self, tokens: list[tuple[str, str]], at: int) -> tuple[Any, int]:
        kind, text = tokens[at]
        if (kind, text) == ("mark", "["):
            items = []
            at += 1
            while tokens[at] != ("mark", "]"):
                if tokens[at] == ("mark", ","):
                    at += 1
                    continue
                item, at = self._value(tokens, at)
                items.append(item)
            return items, at + 1
        if kind == "node":
            return self._nodes[text.removeprefix("%")], at + 1
        if kind == "weight":
            return self._weight(text), at + 1
        return (json.loads(text) if kind == "text" else _word(text)), at + 1


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(text.rstrip()):
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            raise ValueError(f"at {text[at : at + 40]!r}")
        yield match.lastgroup, match[match.lastgroup]
        at = match.end()


def _word(text: str) -> Any:
    if text in ("None", "True", "False"):
        return {"None": None, "True": True, "False": False}[text]
    if text.startswith("torch."):
        return getattr(torch, text.removeprefix("torch."))
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            pass
    return torch.device(text)


def _operator(name: str) -> Any:
    """'aten.add.Tensor' → torch.ops.aten.add.Tensor; Python's own operators by their name."""
    namespace, _, rest = name.partition(".")
    if rest:
        packet = getattr(getattr(torch.ops, namespace), rest.partition(".")[0])
        return getattr(packet, rest.partition(".")[2] or "default")
    for home in (operator, torch):
        if hasattr(home, name):
            return getattr(home, name)
    raise ValueError(f"there is no operator {name!r}")
