"""Walks a Program's graph once and emits ONNX nodes. The handlers, by operator family, are in the `ops_*` modules."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from vitc.errors import LoweringError
from vitc.graph.nodes import constant, is_tensor, module_path, val, where
from vitc.graph.printer import op_name
from vitc.lowering.onnx.arguments import Handler, Refused
from vitc.lowering.onnx.decompose import decomposition

OPSET = 20
_REMEDY = "Replace it in the model, or add a handler with vitc.lowering.onnx.emitter.emits"

ONNX_TYPES = {
    torch.float32: TensorProto.FLOAT,
    torch.float16: TensorProto.FLOAT16,
    torch.float64: TensorProto.DOUBLE,
    torch.int8: TensorProto.INT8,
    torch.uint8: TensorProto.UINT8,
    torch.int16: TensorProto.INT16,
    torch.int32: TensorProto.INT32,
    torch.int64: TensorProto.INT64,
    torch.bool: TensorProto.BOOL,
}

_handlers: dict[Any, Handler] = {}


def emits(
    *targets: Any, settled: Iterable[str] = (), whole: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers the handler of some operators: `handler(emitter, node, x, dim, …)`, whose parameters are the arguments
    it reads (vitc.lowering.onnx.arguments). It returns the result's name, or a tuple of names. `settled`: arguments
    that need no reading, as the result's dtype and shape show what they do. `whole`: the handler takes the node alone,
    and reads its arguments by a record of its own."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        for target in targets:
            _handlers[target] = Handler(function, frozenset(settled), whole)
        return function

    return register


def onnx_type(dtype: torch.dtype, node: Node) -> int:
    """ONNX's number of a dtype. Raises LoweringError for one that ONNX or its engines have not."""
    if dtype not in ONNX_TYPES:
        raise LoweringError(
            f"{where(node)} has dtype {dtype}, which no engine takes; convert the model first, with model.float()"
        )
    return ONNX_TYPES[dtype]


class Emitter:
    """Collects ONNX nodes and initializers; `names` maps each FX node to its ONNX value(s)."""

    def __init__(self, module: GraphModule) -> None:
        self.module = module
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.names: dict[Node, Any] = {}
        self.origins: dict[str, str] = {}  # ONNX node → the graph's node that it was emitted for
        self.signatures: dict[Any, str] = {}  # signature of an attention → overload of its function
        self._taken: set[str] = set()
        self._node: Node | None = None
        self._decomposed: Node | None = None  # the graph's node, while what torch makes of it is emitted

    # --- driving ---------------------------------------------------------------------------------------------------

    def emit(self, node: Node) -> None:
        """One call_function node, or what torch decomposes it into. Raises LoweringError, with the node and the user's
        module, if nothing handles it."""
        self._node = node
        before = len(self.nodes)
        try:
            self.names[node] = self._handled(node)
        except Refused as refusal:
            del self.nodes[before:]  # what it had begun; initializers that nobody reads are dropped at the end
            self._decompose(node, refusal)

    def _handled(self, node: Node) -> Any:
        handler = _handlers.get(node.target)
        if handler is None:
            raise Refused(f"{where(node)} has no ONNX form in vitc")
        arguments = handler.arguments(node)
        if arguments is None:
            return handler.function(self, node, *node.args)
        return handler.function(self, node, **arguments)

    def _decompose(self, node: Node, refusal: Refused) -> None:
        """Emits torch's decomposition of a node. What in it depends on no operand is computed here."""
        found = decomposition(node, frozenset(_handlers) - {node.target})
        if found is None:
            raise LoweringError(f"{refusal}, and torch no decomposition. {_REMEDY}") from None
        module, inputs = found
        outermost = self._decomposed is None
        if outermost:
            self._decomposed = node
        values: dict[Node, Any] = {}
        operands = iter(inputs)
        for inner in module.graph.nodes:
            if inner.op == "placeholder":
                operand = next(operands)
                self.names[inner] = self.value(operand) if is_tensor(operand) else self.names[operand]
            elif inner.op == "get_attr":
                values[inner] = getattr(module, str(inner.target))
            elif inner.op == "call_function" and _is_constant(inner, values):
                values[inner] = _computed(inner, values)
            elif inner.op == "call_function":
                for operand in inner.all_input_nodes:
                    if operand in values and operand not in self.names:
                        self.names[operand] = self._stored(values[operand])
                self._emit_inner(inner, refusal)
        output = next(n for n in module.graph.nodes if n.op == "output")
        for result in output.all_input_nodes:
            if result in values:
                self.names[result] = self._stored(values[result])
        self._node = node
        if outermost:
            self._decomposed = None
        self.names[node] = map_arg(output.args[0], self.names.__getitem__)

    def _emit_inner(self, inner: Node, refusal: Refused) -> None:
        try:
            self.emit(inner)
        except LoweringError:
            raise LoweringError(
                f"{refusal}, nor has {op_name(inner)}, which torch decomposes it into. {_REMEDY}"
            ) from None

    def _stored(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self.const(value.numpy())
        return tuple(map(self._stored, value)) if isinstance(value, (tuple, list)) else self.ints([int(value)])

    # --- values ----------------------------------------------------------------------------------------------------

    def value(self, operand: Any) -> str:
        """The ONNX value of a tensor operand."""
        if not isinstance(operand, Node):
            raise LoweringError(f"{where(self.node)} takes the literal {operand!r} where a tensor is expected")
        if operand.op == "get_attr" and operand not in self.names:
            self.names[operand] = self.initializer(str(operand.target), constant(self.module, operand))
        name = self.names[operand]
        if not isinstance(name, str):
            raise LoweringError(f"{where(self.node)} uses all {len(name)} results of {operand.name} as one tensor")
        return name

    def cast(self, name: str, dtype: torch.dtype) -> str:
        return self.op("Cast", [name], to=onnx_type(dtype, self.node))

    def operand(self, operand: Any, dtype: torch.dtype) -> str:
        """A tensor (cast to `dtype` if it has another) or a literal number as a scalar of `dtype`."""
        if not isinstance(operand, Node):
            return self.const(np.asarray(operand), dtype)
        if not is_tensor(operand):  # a symbolic size
            return self.cast(self.op("Squeeze", [self.names[operand], self.ints([0])]), dtype)
        name = self.value(operand)
        return name if val(operand).dtype == dtype else self.cast(name, dtype)

    def size(self, size: Any) -> int | str:
        """A size: an int, or the name of a 1-element INT64 tensor for a symbolic one."""
        if isinstance(size, Node):
            name: str = self.names[size]
            return name
        return int(size)

    def shape(self, sizes: Sequence[Any]) -> str:
        """An INT64 shape tensor; symbolic sizes are taken from the graph."""
        parts = [self.size(s) for s in sizes]
        known = [p for p in parts if isinstance(p, int)]
        if len(known) == len(parts):
            return self.ints(known)
        return self.op("Concat", [p if isinstance(p, str) else self.ints([p]) for p in parts], axis=0)

    # --- emitting --------------------------------------------------------------------------------------------------

    @property
    def node(self) -> Node:
        assert self._node is not None
        return self._node

    def op(self, op_type: str, inputs: Sequence[str], domain: str = "", **attributes: Any) -> str:
        """Appends a node named /module/path/OpType, which is how the engine's layers are traced back to the user's
        module; returns its result's name."""
        return self.ops(op_type, inputs, 1, domain=domain, **attributes)[0]

    def ops(self, op_type: str, inputs: Sequence[str], outputs: int, domain: str = "", **attributes: Any) -> list[str]:
        """The same for an operator with several results."""
        name = self.unique("/".join(["", *filter(None, module_path(self.node).split(".")), op_type]))
        results = [f"{name}_out{i}" if outputs > 1 else f"{name}_out" for i in range(outputs)]
        proto = helper.make_node(op_type, list(inputs), results, name=name, domain=domain, **attributes)
        self.nodes.append(proto)
        self.origins[name] = (self._decomposed or self.node).name
        return results

    def initializer(self, name: str, tensor: torch.Tensor) -> str:
        """A weight under the user's own name; one that also serves in another form (transposed) gets a number behind
        it."""
        proto = numpy_helper.from_array(tensor.detach().contiguous().numpy(), name)
        i = 0
        while (known := self.initializers.get(proto.name)) is not None:
            if (known.dims, known.data_type, known.raw_data) == (proto.dims, proto.data_type, proto.raw_data):
                return proto.name
            i += 1
            proto.name = f"{name}_{i}"
        self.initializers[proto.name] = proto
        return proto.name

    def const(self, array: Any, dtype: torch.dtype | None = None) -> str:
        """A small literal; equal literals are shared."""
        array = np.asarray(array)
        if dtype is not None:
            array = array.astype(torch.empty(0, dtype=dtype).numpy().dtype)
        content = array.ravel().tolist() if array.size < 9 else hashlib.sha256(array.tobytes()).hexdigest()
        key = f"const/{array.dtype}/{list(array.shape)}/{content}"
        if key not in self.initializers:
            self.initializers[key] = numpy_helper.from_array(array, key)
        return key

    def ints(self, values: Sequence[int]) -> str:
        return self.const(np.asarray(list(values), dtype=np.int64))

    def unique(self, name: str) -> str:
        candidate, i = name, 0
        while candidate in self._taken:
            i += 1
            candidate = f"{name}_{i}"
        self._taken.add(candidate)
        return candidate


def _is_constant(node: Node, values: Mapping[Node, Any]) -> bool:
    return all(n in values for n in node.all_input_nodes) and not node.is_impure()


def _computed(node: Node, values: Mapping[Node, Any]) -> Any:
    args, kwargs = map_arg((node.args, dict(node.kwargs)), values.__getitem__)
    with torch.no_grad():
        return node.target(*args, **kwargs)  # type: ignore[operator]


@emits(operator.getitem)
def _getitem(e: Emitter, node: Node, source: Node, index: int) -> Any:
    found = e.names[source][index]
    if found is None:
        raise LoweringError(f"{where(node)} uses a result of {op_name(source)} that has no ONNX form in vitc")
    return found


__all__ = ["ONNX_TYPES", "OPSET", "Emitter", "emits", "onnx_type", "op_name"]
