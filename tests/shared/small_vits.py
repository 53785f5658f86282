"""Small ViTs for the tests of pruning, with every spelling that the groups must see through."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from vitc.frontend.capture import capture
from vitc.graph.program import Program
from vitc.pipeline.default import canonical
from vitc.targets import Target, load

#: A CPU of fixed rates, not this machine's measured ones, so that tests prune alike everywhere.
CPU: Target = load("cpu").with_measured(
    fp32_tflops=0.1, fp16_tflops=0.1, int8_tops=0.1, memory_gbs=10.0, source="tests"
)


@dataclass(frozen=True)
class Shape:
    """What a small ViT is made of."""

    heads: int = 2
    head_dim: int = 4
    merged_qkv: bool = True
    layer_scale: bool = False
    registers: int = 0
    tied: bool = False
    gated: bool = False
    table: bool = False


class Attention(nn.Module):
    def __init__(self, shape: Shape, tokens: int) -> None:
        super().__init__()
        dim = shape.heads * shape.head_dim
        self.shape = shape
        self.qkv = nn.Linear(dim, 3 * dim) if shape.merged_qkv else nn.ModuleList(nn.Linear(dim, dim) for _ in range(3))
        self.proj = nn.Linear(dim, dim)
        self.bias = nn.Parameter(torch.randn(1, shape.heads, tokens, tokens)) if shape.table else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, c = x.shape
        h, d = self.shape.heads, self.shape.head_dim
        if isinstance(self.qkv, nn.ModuleList):
            q, k, v = (part(x).view(b, n, h, d).transpose(1, 2) for part in self.qkv)
        else:
            q, k, v = self.qkv(x).reshape(b, n, 3, h, d).permute(2, 0, 3, 1, 4).unbind(0)
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)
        return self.proj(y.transpose(1, 2).reshape(b, n, c))


class Mlp(nn.Module):
    def __init__(self, dim: int, gated: bool) -> None:
        super().__init__()
        self.gated = gated
        self.fc1 = nn.Linear(dim, 6 * dim if gated else 3 * dim)
        self.fc2 = nn.Linear(3 * dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.gated:
            return self.fc2(nn.functional.gelu(self.fc1(x)))
        gate, value = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(nn.functional.silu(gate) * value)


class Block(nn.Module):
    def __init__(self, shape: Shape, tokens: int) -> None:
        super().__init__()
        dim = shape.heads * shape.head_dim
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn, self.mlp = Attention(shape, tokens), Mlp(dim, shape.gated)
        self.scale1, self.scale2 = (nn.Parameter(torch.rand(dim)) if shape.layer_scale else 1.0 for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x)) * self.scale1
        return x + self.mlp(self.norm2(x)) * self.scale2


class SmallViT(nn.Module):
    """[n, 3, 8, 8] → [n, 5]."""

    def __init__(self, shape: Shape = Shape(), depth: int = 2) -> None:
        super().__init__()
        dim = shape.heads * shape.head_dim
        tokens = 5 + shape.registers
        self.patch = nn.Conv2d(3, dim, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, dim))
        self.position = nn.Parameter(torch.randn(1, 5, dim))
        self.registers = nn.Parameter(torch.randn(1, shape.registers, dim)) if shape.registers else None
        self.blocks = nn.ModuleList(Block(shape, tokens) for _ in range(depth))
        if shape.tied:
            self.blocks[-1].mlp = self.blocks[0].mlp
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patch(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len_of(x), -1, -1), x], 1) + self.position
        if self.registers is not None:
            x = torch.cat([x[:, :1], self.registers.expand(len_of(x), -1, -1), x[:, 1:]], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def len_of(x: torch.Tensor) -> int:
    """The batch size, dynamic under export."""
    return x.shape[0]


def program_of(model: nn.Module, size: tuple[int, ...] = (3, 8, 8), target: Target = CPU) -> Program:
    """The model at stage 'canonical', with seeded example inputs."""
    images = torch.randn(2, *size, generator=torch.Generator().manual_seed(5))
    return canonical(capture(model.eval(), target, images))
