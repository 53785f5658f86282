"""One call of aten.scaled_dot_product_attention, every argument by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from vitc.graph.nodes import argument, shape_of

SDPA = torch.ops.aten.scaled_dot_product_attention.default


@dataclass(frozen=True)
class SdpaCall:
    """softmax(q·kᵀ·scale + mask)·v. `scale`: None is 1/√D. `mask`: added, or boolean, where True may be seen. `causal`:
    query i sees the keys up to i. `grouped`: k and v have fewer heads, each for several of q's."""

    q: Node
    k: Node
    v: Node
    mask: Node | None
    dropout: float
    causal: bool
    scale: Any
    grouped: bool

    @classmethod
    def of(cls, node: Node) -> SdpaCall:
        """The call that a node is."""
        q, k, v = (argument(node, i, name) for i, name in enumerate(("query", "key", "value")))
        return cls(
            q, k, v,
            argument(node, 3, "attn_mask"), float(argument(node, 4, "dropout_p", 0.0)),
            bool(argument(node, 5, "is_causal", False)),
            node.kwargs.get("scale"), bool(node.kwargs.get("enable_gqa", False)),
        )  # fmt: skip

    def factor(self) -> float:
        """What q·kᵀ is multiplied with."""
        return float(shape_of(self.q)[-1]) ** -0.5 if self.scale is None else float(self.scale)
