"""The engine: a library engine up to the first block, vitc's own kernels through the blocks, and the library again."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence

import onnx
from onnx import TensorProto, helper

from vitc.errors import InputError
from vitc.lowering.cpu.engine import Array, Engine, no_longer_open
from vitc.lowering.cpu.native.blocks import Blocks
from vitc.lowering.cpu.native.match import Trunk, Unsuitable, match

# Images go through the blocks in chunks of about this many tokens: their activations stay in the cores' own caches,
# and the weights, which stream past once a chunk, are used often enough.
_CHUNK_TOKENS = 512

_OPEN: weakref.WeakSet[NativeEngine] = weakref.WeakSet()

OpenHost = Callable[[onnx.ModelProto], Engine]


class NativeEngine:
    """INT8 on AVX512-VNNI. `open_host` gives the engine for what is not a block: patch embedding, pooling, head."""

    name = "native"
    remark = ""

    def __init__(
        self, proto: onnx.ModelProto, open_host: OpenHost, threads: int | None = None, portable: bool = False
    ) -> None:
        """Raises Unsuitable where the graph is not a run of quantized blocks; BuildError, MissingDependencyError."""
        from vitc.lowering.cpu.prepare import ports

        trunk = match(proto.graph)
        self.inputs, self.outputs = ports(proto)
        before = _part(proto, trunk.before, _handed_on(trunk))
        _check_rank(before, trunk)
        made_after = {name for node in trunk.after for name in node.output}
        after = _part(proto, trunk.after, [port.name for port in self.outputs if port.name in made_after])
        self._blocks: Blocks | None = Blocks(trunk, threads or len(os.sched_getaffinity(0)), portable)
        self._trunk = trunk
        self._before = open_host(before) if before.graph.node else None
        self._after = open_host(after) if after.graph.node else None
        host = self._before or self._after
        self.version = "portable" if portable else "avx512_vnni"
        if host is not None:
            self.version += f", {host.name} {host.version} around the blocks"
        self._lock = threading.Lock()
        _OPEN.add(self)

    def renew_lock(self) -> None:
        """For a forked child: whoever held the lock is not in it."""
        self._lock = threading.Lock()

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        if self._blocks is None:
            raise InputError(no_longer_open(self.name))
        values = dict(feeds)
        if self._before is not None:
            values |= self._before.run({port.name: feeds[port.name] for port in self._before.inputs})
        with self._lock:  # one inference at a time has all threads and the buffers
            if self._blocks is None:
                raise InputError(no_longer_open(self.name))
            _, tokens = self._blocks.size(values)
            values |= self._blocks.run(values, max(1, _CHUNK_TOKENS // tokens))
            if self._after is not None:
                values |= self._after.run({port.name: values[port.name] for port in self._after.inputs})
            # What the blocks gave lies in buffers of theirs.
            return {
                p.name: values[p.name].copy() if p.name in self._trunk.outputs else values[p.name] for p in self.outputs
            }

    def close(self) -> None:
        with self._lock:
            blocks, self._blocks = self._blocks, None
        if blocks is not None:
            blocks.close()
        for host in (self._before, self._after):
            if host is not None:
                host.close()


def _renew_locks() -> None:
    for engine in list(_OPEN):
        engine.renew_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


def _handed_on(trunk: Trunk) -> list[str]:
    """What the part before must give: the trunk's inputs, and what the part behind reads of it."""
    made = {name for node in trunk.before for name in node.output}
    read = [*trunk.inputs, *(name for node in trunk.after for name in node.input)]
    return [name for name in dict.fromkeys(read) if name in made]


def _part(proto: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> onnx.ModelProto:
    """A model of some nodes. Inputs that are not the graph's own are FP32 [?, ?, ?]."""
    graph = proto.graph
    made = {name for node in nodes for name in node.output}
    read = dict.fromkeys(name for node in nodes for name in node.input if name and name not in made)
    initializers = [tensor for tensor in graph.initializer if tensor.name in read]
    known = {value.name: value for value in (*graph.input, *graph.output)}
    constant = {tensor.name for tensor in initializers}

    def value(name: str, rank: int | None) -> onnx.ValueInfoProto:
        shape = None if rank is None else [f"{name}/{i}" for i in range(rank)]
        return known.get(name) or helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    part = helper.make_graph(
        nodes,
        f"{graph.name}_part",
        [value(n, 3) for n in read if n not in constant],
        [value(n, None) for n in outputs],
        initializers,
    )
    model = helper.make_model(part, opset_imports=proto.opset_import, functions=proto.functions)
    model.ir_version = proto.ir_version
    return model


def _check_rank(before: onnx.ModelProto, trunk: Trunk) -> None:
    inferred = onnx.shape_inference.infer_shapes(before)
    shapes = {v.name: v.type.tensor_type for v in (*inferred.graph.output, *inferred.graph.input)}
    for name in trunk.inputs:
        found = shapes.get(name)
        if found is not None and found.HasField("shape") and len(found.shape.dim) != 3:
            raise Unsuitable(f"{name!r} enters the blocks with rank {len(found.shape.dim)}, not [batch, tokens, width]")
