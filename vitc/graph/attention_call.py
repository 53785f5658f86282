"""One call of vitc::attention or vitc::attention_int8, by name: nobody else knows which argument stands where.

    call = AttentionCall.of(node)
    narrower = dataclasses.replace(call, num_heads=6)
    with rewriter.at(node):
        new = narrower.emit(rewriter)

The operators' schemas are made from this record, so a new argument is one line here (with a default, at the end, or
before `pv` if vitc::attention takes it too), and its line in the kernel's description (kernels/vit_attention.toml,
kernels/fields.py), which a test compares with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch.fx import Node

from vitc.errors import InternalError
from vitc.graph.nodes import where
from vitc.kernels.fields import AttentionFields, split_scales

if TYPE_CHECKING:
    from vitc.graph.rewriter import Rewriter

T = TypeVar("T")
"""What an operand is: a Node where a graph is read, a Tensor where one is run."""
_SCHEMA_TYPES = {
    "T": "Tensor",
    "T | None": "Tensor?",
    "int": "SymInt",
    "float": "float",
    "str": "str",
    "Sequence[float]": "float[]",
    "torch.dtype | None": "ScalarType?",
}
_OF_INT8 = ("pv", "in_scales", "out_scale", "out_dtype")
"""The arguments that vitc::attention does not take: there they have their defaults."""


@dataclass(frozen=True)
class AttentionCall(Generic[T]):
    """The arguments, in the operators' order; layouts and limits as kernels/vit_attention.toml describes them."""

    q: T
    """[B, N, 3·H·D] where `layout` is "packed", [B, N, H·D] for "bnhd", [B, H, N, D] for "bhnd"."""
    k: T | None
    """As q, with M tokens; None where q is packed."""
    v: T | None
    """As k."""
    bias: T | None
    """[Wb, H or 1, N, M], added to the scores: batch element b takes row b % Wb."""
    num_heads: int
    head_dim: int
    scale: float
    """Multiplies q·kᵀ before the softmax."""
    layout: str
    tile_q: int
    """Query rows in a tile; a hint."""
    tile_k: int
    """Key rows in a tile; a hint."""
    causal: int = 0
    """1: query i sees keys 0 to i alone, by position; no mask is read."""
    pv: str = "fp16"
    """Precision of P·V in the INT8 kernel: "int8" or "fp16"."""
    in_scales: Sequence[float] = (0.0, 0.0, 0.0)
    """Of q, k and v: three, or 3·H where each head has its own; 0 for floating-point operands."""
    out_scale: float = 0.0
    """Of an INT8 output; 0 for a floating-point one."""
    out_dtype: torch.dtype | None = None
    """Of the floating-point output of vitc::attention_int8; None: FP16, as the kernel writes it."""

    @classmethod
    def of(cls, node: Node) -> AttentionCall[Node]:
        """The call that a node is. Raises InternalError if it is none."""
        if not is_attention(node):
            raise InternalError(f"{where(node)} is no attention; ask is_attention first")
        return AttentionCall(*node.args, **node.kwargs)  # type: ignore[arg-type]

    def emit(self, rewriter: Rewriter) -> Node:
        """A new node at the rewriter's insertion point."""
        return rewriter.call(self.target, *self.arguments())

    @property
    def target(self) -> Callable[..., Any]:
        """The operator that takes these arguments."""
        name = "attention_int8" if self.int8 else "attention"
        return getattr(torch.ops.vitc, name).default  # type: ignore[no-any-return]

    def arguments(self) -> tuple[Any, ...]:
        """What stands between the operator's parentheses, in order."""
        values = {name: getattr(self, name) for name in _names(self.int8)}
        if self.int8:
            values["in_scales"] = list(self.in_scales)
        return tuple(values.values())

    @property
    def int8(self) -> bool:
        """Whether q, k and v are INT8."""
        return self.in_scales[0] > 0

    @property
    def packed(self) -> bool:
        """Whether q, k and v are one tensor, `q`."""
        return self.k is None

    @property
    def width(self) -> int:
        """Channels of the output: H·D."""
        return self.num_heads * self.head_dim

    @property
    def parts(self) -> tuple[T, ...]:
        """The one packed tensor, or q, k and v."""
        return tuple(t for t in (self.q, self.k, self.v) if t is not None)

    @property
    def inputs(self) -> tuple[T, ...]:
        """Every operand there is, in the order of the kernel's inputs."""
        return tuple(t for t in self.operands() if t is not None)

    def operands(self) -> tuple[T | None, ...]:
        """q, k, v and the bias, None where there is none."""
        return tuple(getattr(self, name) for name in OPERANDS)

    def with_operands(self, operands: Sequence[Any]) -> AttentionCall[Any]:
        """The same call on other operands, which stand as in `operands()`."""
        return replace(self, **dict(zip(OPERANDS, operands, strict=True)))

    def with_parts(self, parts: Sequence[T]) -> AttentionCall[T]:
        """The same call on one packed tensor, or on another q, k and v."""
        q, *rest = parts
        k, v = rest or (None, None)
        return replace(self, q=q, k=k, v=v)

    def fields(self) -> AttentionFields:
        """The call as the kernel's fields. Raises InputError for what the kernel's description does not allow."""
        common, head_scales = split_scales(self.in_scales)
        derived: dict[str, Any] = {
            "has_bias": int(self.bias is not None),
            **{f"{part}_scale": scale for part, scale in zip("qkv", common, strict=True)},
            "head_scales": head_scales,
        }
        names = [f.name for f in fields(AttentionFields)]
        return AttentionFields(**{n: derived[n] if n in derived else getattr(self, n) for n in names})


OPERANDS = tuple(f.name for f in fields(AttentionCall) if f.type in ("T", "T | None"))
"""The names of the arguments that are tensors."""


def is_attention(node: Node) -> bool:
    """Whether a node calls one of the two operators."""
    return node.target in (torch.ops.vitc.attention.default, torch.ops.vitc.attention_int8.default)


def attention_schema(int8: bool) -> str:
    """An operator's signature in torch's own language."""
    return f"({', '.join(_argument(name, int8) for name in _names(int8))}) -> Tensor"


def _names(int8: bool) -> list[str]:
    return [f.name for f in fields(AttentionCall) if int8 or f.name not in _OF_INT8]


def _argument(name: str, int8: bool) -> str:
    field = next(f for f in fields(AttentionCall) if f.name == name)
    text = f"{_SCHEMA_TYPES[str(field.type)]} {name}"
    if field.default is MISSING or int8:  # whoever calls the INT8 operator says all of it
        return text
    return f"{text}={field.default!r}"
