"""Nodes, bodies, functions and names: counted first, then held to ONNX's own rules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx

from vitc.errors import InputError
from vitc.kernels.fields import AttentionFields, attention_spec
from vitc.lowering.gate import limits

FunctionId = tuple[str, str, str]


class Refused(Exception):
    """The message says why a model does not come in."""


def check_counts(proto: onnx.ModelProto) -> None:
    """Raises Refused for more nodes, calls, bodies or longer names than a model may have."""
    if len(proto.functions) > limits.FUNCTIONS:
        raise Refused(f"it has {len(proto.functions)} functions; the most is {limits.FUNCTIONS}")
    functions = {_function_id(function): function for function in proto.functions}
    if len(functions) < len(proto.functions):
        raise Refused("two of its functions have the same name")
    if any(not domain for domain, _, _ in functions):
        raise Refused("a function of it has the name of a standard operator")
    unfolded: dict[FunctionId, int] = {}
    depths: dict[FunctionId, int] = {}
    for function in _callees_first(functions):
        this = _function_id(function)
        nodes, called = _size(function.node, unfolded)
        unfolded[this] = nodes
        depths[this] = 1 + max((depths[id_] for id_ in called), default=0)
        if depths[this] > limits.CALL_DEPTH:
            raise Refused(f"its functions call each other {depths[this]} deep; the most is {limits.CALL_DEPTH}")
    nodes, _ = _size(proto.graph.node, unfolded)
    if not nodes:
        raise Refused("it has no nodes")


def _callees_first(functions: dict[FunctionId, onnx.FunctionProto]) -> Iterator[onnx.FunctionProto]:
    """Each function after those it calls. Refused where that has no end."""
    done: set[FunctionId] = set()
    open_: dict[FunctionId, Iterator[FunctionId]] = {}
    for start in functions:
        todo = [start]
        while todo:
            this = todo[-1]
            if this in done:
                todo.pop()
                continue
            if this not in open_:
                open_[this] = iter({_node_id(node) for node, _ in walk(functions[this].node)} & functions.keys())
            callee = next(open_[this], None)
            if callee is None:
                done.add(todo.pop())
                yield functions[this]
            elif callee in open_ and callee not in done:
                raise Refused(f"its function {callee[1]!r} calls itself")
            else:
                todo.append(callee)


def walk(nodes: Iterable[onnx.NodeProto]) -> Iterator[tuple[onnx.NodeProto, int]]:
    """(node, how many bodies it is in), for all nodes and those in their bodies."""
    todo = [(node, 0) for node in nodes]
    while todo:
        node, depth = todo.pop()
        if depth > limits.BODY_DEPTH:
            raise Refused(f"it has bodies in bodies, more than {limits.BODY_DEPTH} deep")
        yield node, depth
        todo += [(inner, depth + 1) for body in bodies(node) for inner in body.node]


def bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs that the attributes of a node hold."""
    return [body for a in node.attribute for body in ((a.g,) if a.HasField("g") else ()) + tuple(a.graphs)]


def _size(nodes: Iterable[onnx.NodeProto], unfolded: dict[FunctionId, int]) -> tuple[int, set[FunctionId]]:
    """(nodes with their calls unfolded, the functions called). Names are looked at on the way."""
    count = 0
    called = set()
    for node, _ in walk(nodes):
        this = _node_id(node)
        count += unfolded.get(this, 1)
        if this in unfolded:
            called.add(this)
        if count > limits.NODES:
            raise Refused(f"it has more than {limits.NODES} nodes with all its functions unfolded")
        for name in (node.name, node.op_type, node.domain, *node.input, *node.output):
            if len(name) > limits.NAME:
                raise Refused(f"a name in it has {len(name)} characters; the most is {limits.NAME}")
    return count, called


def _node_id(node: onnx.NodeProto) -> FunctionId:
    return _domain(node.domain), node.op_type, getattr(node, "overload", "")


def _function_id(function: onnx.FunctionProto) -> FunctionId:
    return _domain(function.domain), function.name, getattr(function, "overload", "")


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def check_rules(proto: onnx.ModelProto) -> None:
    """ONNX's own rules: operators' inputs and attributes, types, every name made once and before it is read.

    Raises Refused. Operators that ONNX does not know are left to the engine. Weights are not looked at.
    """
    bare = skeleton(proto)
    for value in (*bare.graph.input, *bare.graph.output):
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()  # the checker insists on one; an unknown shape is no harm
    try:
        onnx.checker.check_model(bare)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise Refused(f"ONNX's own checker says: {str(error).strip()[:1000]}") from error
    # The checker holds inputs and outputs for a list of strings; what they carry must be a tensor of a known type.
    for value in (*proto.graph.input, *proto.graph.output):
        if not value.type.HasField("tensor_type") or not is_known_type(value.type.tensor_type.elem_type):
            raise Refused(f"its input or output {value.name!r} is no tensor of a type that is known")


def is_known_type(data_type: int) -> bool:
    """Whether an element type is one of numbers or booleans."""
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(data_type)
    except (KeyError, ValueError, TypeError):
        return False
    return dtype.kind != "O"


def skeleton(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which weights are inputs of their type and shape, and unknown operators have a domain of their own."""
    model = onnx.ModelProto()
    model.ir_version = proto.ir_version
    model.opset_import.extend(proto.opset_import)
    model.functions.extend(proto.functions)
    graph = model.graph
    graph.name = proto.graph.name or "graph"
    graph.node.extend(proto.graph.node)
    graph.input.extend(proto.graph.input)
    graph.output.extend(proto.graph.output)
    given = {value.name for value in proto.graph.input}
    for tensor in proto.graph.initializer:
        if tensor.ByteSize() <= _SMALL and (_has_data(tensor) or 0 in tensor.dims):
            graph.initializer.add().CopyFrom(tensor)
        elif tensor.name not in given:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    known = {(_domain(function.domain), function.name) for function in proto.functions}
    for nodes in (graph.node, *(function.node for function in model.functions)):
        for node, _ in walk(nodes):
            domain = _domain(node.domain)
            if (domain, node.op_type) in known:
                continue
            if domain == "" and not onnx.defs.has(node.op_type):
                node.domain = "vitc.unknown"
            elif domain == "com.microsoft" and onnx.defs.has(node.op_type):
                node.domain = ""  # ONNX Runtime's own of a standard name: read like the standard one
    if all(opset.domain != "vitc.unknown" for opset in model.opset_import):
        model.opset_import.add(domain="vitc.unknown", version=1)
    return model


_SMALL = 1024  # bytes: shapes, axes, scales


def _has_data(tensor: onnx.TensorProto) -> bool:
    """False for an external tensor, and for one whose data was left outside."""
    return any(field.name == "raw_data" or field.name.endswith("_data") for field, _ in tensor.ListFields())


def check_operators(proto: onnx.ModelProto) -> None:
    """No node that only looks like an operator of ONNX's or vitc's. Raises Refused."""
    spec = attention_spec()
    for nodes in (proto.graph.node, *(function.node for function in proto.functions)):
        for node, _ in walk(nodes):
            domain = _domain(node.domain)
            own = domain == spec.domain if node.op_type == spec.name else domain in ("", "com.microsoft")
            if not own and (node.op_type == spec.name or onnx.defs.has(node.op_type)):
                raise Refused(f"its operator {domain}::{node.op_type} has the name of a known one")
            if bodies(node):
                raise Refused(f"it has the operator {node.op_type} with a body of its own; no engine here runs it")
    check_attentions(proto)


def check_attentions(proto: onnx.ModelProto) -> None:
    """vitc's own operator has all its fields, with values it may have. Raises Refused."""
    spec = attention_spec()
    known = {field.name for field in spec.fields}
    for node in proto.graph.node:
        if node.op_type != spec.name or node.domain != spec.domain:
            continue
        try:
            given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute if a.name in known}
            fields = AttentionFields.from_attributes(
                {name: value.decode() if isinstance(value, bytes) else value for name, value in given.items()}
            )
        except (InputError, ValueError, TypeError, UnicodeDecodeError) as error:
            raise Refused(f"its attention {node.name or list(node.output)!r} can't be read: {error}") from error
        wanted = len(spec.layouts[fields.layout]) + bool(fields.has_bias)
        if len(node.input) != wanted or not all(node.input) or len(node.output) != 1:
            raise Refused(
                f"its attention {node.name or list(node.output)!r} has {len(node.input)} inputs, not {wanted}"
            )
