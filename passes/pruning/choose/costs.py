"""What a program would cost without some of its features, without building it.

Each node keeps a share of its elements; its record shrinks by that share. All shares are one weighted sum over the
features that stay, so a candidate costs a few milliseconds even where there are hundreds of thousands of features.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch.fx import Node

from vitc.cost import OpCost, block_of, predict
from vitc.cost.count import costed_nodes
from vitc.errors import TargetError
from vitc.graph.nodes import is_constant, module_path
from vitc.graph.program import Program
from vitc.passes.pruning.find.blocks import features_by_block
from vitc.passes.pruning.find.flow import Flow
from vitc.passes.pruning.find.layers import LAYERS, is_depthwise
from vitc.passes.pruning.find.tags import NOBODY, core
from vitc.passes.pruning.plan import Cost, total


class CostModel:
    """Costs of one program for any set of removed features, on the program's target.

    `untimed`: why no time can be predicted there; None where it can.
    """

    def __init__(self, program: Program, flow: Flow) -> None:
        self.target = program.target
        self.nodes = costed_nodes(program)
        self._itemsize = 2 if self.target.default_precision == "fp16" else 4
        self._shares = _Shares(flow, program.graph.nodes)
        self._weights = _weights(program)
        self._inside = features_by_block(program, flow)
        self.untimed: str | None = None
        try:
            predict([record for _, record in self.nodes], self.target)
        except TargetError as error:
            self.untimed = str(error)

    def of(self, removed: torch.Tensor) -> Cost:
        """The cost without the removed features [features]."""
        return total(self.blocks(removed).values())

    def blocks(self, removed: torch.Tensor) -> dict[str, Cost]:
        """The same by block of the model."""
        gone, removed = self._without_blocks(removed)
        share = self._shares.of(removed)
        records = [self._record(n, record, share) for n, record in self.nodes if block_of(record.module) not in gone]
        ms = {} if self.untimed else {b.name: b.ms for b in predict(records, self.target).blocks}
        params: dict[str, float] = {}
        for size, user, is_matrix in self._weights:
            name = block_of(module_path(user))
            if name in gone:
                continue
            kept = share.get(user, 1.0) * (share.get(("columns", user), 1.0) if is_matrix else 1.0)
            params[name] = params.get(name, 0.0) + size * kept
        work: dict[str, float] = {}
        for record in records:
            name = block_of(record.module)
            work[name] = work.get(name, 0.0) + record.flops
        names = dict.fromkeys([*work, *params, *gone])
        untouched = None if self.untimed else 0.0
        return {
            n: Cost(params.get(n, 0.0), params.get(n, 0.0) * self._itemsize, work.get(n, 0.0), ms.get(n, untouched))
            for n in names
        }

    def _without_blocks(self, removed: torch.Tensor) -> tuple[set[str], torch.Tensor]:
        """The blocks all of whose features go, and what else goes. Nothing behind such a block becomes narrower: the
        residual stream passes by."""
        gone = {path for path, features in self._inside.items() if bool(removed[features].all())}
        if not gone:
            return gone, removed
        others = removed.clone()
        for path in gone:
            others[self._inside[path]] = False
        return gone, others

    def _record(self, node: Node, record: OpCost, share: dict[object, float]) -> OpCost:
        out, inner = share.get(node, 1.0), share.get(("columns", node), 1.0)
        source = next((share[n] for n in node.all_input_nodes if n in share), 1.0)
        is_layer = node.target in LAYERS
        shape = record.shape
        if shape is not None and record.kind == "attention":
            shape = (max(1, round(shape[0] * out)), *shape[1:])
        elif shape is not None and is_layer:
            shape = (*shape[:2], max(1, round(shape[2] * out)), max(1, round(shape[3] * inner)))
        half = self._itemsize / 4
        return replace(
            record,
            flops=record.flops * out * (inner if is_layer else 1.0),
            bytes_read=record.bytes_read * source * half,
            bytes_written=record.bytes_written * out * half,
            weight_bytes=record.weight_bytes * out * (inner if is_layer else 1.0) * half,
            shape=shape,
            dtype="fp16" if half < 1 and record.dtype == "fp32" else record.dtype,
        )


class _Shares:
    """The share of its elements that each node (and each layer's input columns) keeps."""

    def __init__(self, flow: Flow, nodes: Iterable[Node]) -> None:
        self.keys: list[object] = []
        features, owners, weights = [], [], []
        entries: list[tuple[object, torch.Tensor]] = [(n, tags) for n in nodes if (tags := flow.tags_of(n)) is not None]
        entries += [(("columns", n), row) for n, row in flow.columns.items()]
        for key, tags in entries:
            found, counts = core(tags).unique(return_counts=True)
            features.append(found.long())
            owners.append(torch.full_like(found, len(self.keys), dtype=torch.long))
            weights.append(counts.double() / counts.sum())
            self.keys.append(key)
        self._features, self._owners, self._weights = torch.cat(features), torch.cat(owners), torch.cat(weights)

    def of(self, removed: torch.Tensor) -> dict[object, float]:
        stays = ~removed[self._features.clamp(0)] | (self._features == NOBODY)
        share = torch.zeros(len(self.keys), dtype=torch.float64).index_add_(0, self._owners, self._weights * stays)
        return dict(zip(self.keys, share.tolist(), strict=True))


def _weights(program: Program) -> list[tuple[int, Node, bool]]:
    """(elements, first user, whether it has input columns too) of every weight, each once."""
    seen: dict[str, tuple[int, Node, bool]] = {}
    for node in program.graph.nodes:
        if is_constant(node) and node.users:
            user = next(iter(node.users))
            is_matrix = user.target in LAYERS and user.args[1] is node and not is_depthwise(user)
            seen.setdefault(str(node.target), (node.meta["val"].numel(), user, is_matrix))
    return list(seen.values())
