"""The ways models spell attention, each a few lines; all compute the same function."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, HEADS, TOKENS = 16, 2, 5


class Packed(nn.Module):
    """timm: one fused linear, unbound."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)
        self.bias = nn.Parameter(torch.randn(1, HEADS, TOKENS, TOKENS)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, HEADS, c // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(self.attend(q, k, v).transpose(1, 2).reshape(b, n, c))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)


class WrittenOut(Packed):
    """The same with the softmax in the open, the scale on q."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        return (scores if self.bias is None else scores + self.bias).softmax(-1) @ v


class ScaledScores(Packed):
    """The same, the scores divided."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = torch.matmul(q, k.transpose(-2, -1)) / q.shape[-1] ** 0.5
        return torch.matmul((scores if self.bias is None else self.bias + scores).softmax(-1), v)


class Separate(nn.Module):
    """transformers: three linears, viewed and transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = (f(x).view(b, n, HEADS, -1).transpose(1, 2) for f in (self.query, self.key, self.value))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))


class Cross(nn.Module):
    """Queries of one tensor, keys and values of another."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        b, n, c = x.shape
        q = self.query(x).view(b, n, HEADS, -1).transpose(1, 2)
        k, v = (f(y).view(b, y.shape[1], HEADS, -1).transpose(1, 2) for f in (self.key, self.value))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c)


class Normed(Packed):
    """Something is computed between the linear and the attention."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q.tanh(), k.tanh(), v)


class TalkingHeads(Packed):
    """CaiT: heads mix after the softmax; no attention operator computes this."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = (q @ k.transpose(-2, -1)).softmax(-1)
        return weights.flip(1) @ v


class Windowed(Packed):
    """Swin: 2 windows an image, a bias per head and a mask per window."""

    def __init__(self) -> None:
        super().__init__(bias=True)
        self.register_buffer("mask", torch.randn(2, TOKENS, TOKENS))

    def forward(self, x: Tensor) -> Tensor:
        b, _, c = x.shape
        return super().forward(x.reshape(b * 2, TOKENS, c)).reshape(b, 2 * TOKENS, c)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + self.bias
        b = scores.shape[0]
        scores = scores.view(b // 2, 2, HEADS, TOKENS, TOKENS) + self.mask.unsqueeze(1).unsqueeze(0)
        return scores.view(-1, HEADS, TOKENS, TOKENS).softmax(-1) @ v


class SequenceFirst(nn.Module):
    """torchvision: nn.MultiheadAttention."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class PerHead(Packed):
    """TinyViT: each head cut into its own q, k and v."""

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, HEADS, -1).split([c // HEADS] * 3, dim=3)
        heads = (t.permute(0, 2, 1, 3) for t in (q, k, v))
        return self.proj(self.attend(*heads).transpose(1, 2).reshape(b, n, c))


class Temperature(Packed):
    """Swin v2: cosine similarity, scaled by a learned number a head."""

    def __init__(self) -> None:
        super().__init__(bias=True)
        self.logit_scale = nn.Parameter(torch.rand(HEADS, 1, 1) + 1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * self.logit_scale
        return (scores + self.bias).softmax(-1) @ v


class MergedHeads(Packed):
    """SAM: heads in the batch, a bias computed from q."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.rel = nn.Parameter(torch.randn(TOKENS, WIDTH // HEADS)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, HEADS, -1).permute(2, 0, 3, 1, 4).reshape(3, b * HEADS, n, -1).unbind(0)
        mask = None if self.rel is None else q @ self.rel.t()
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(out.view(b, HEADS, n, -1).transpose(1, 2).reshape(b, n, c))


class OneHead(Packed):
    """Rank 3 without heads."""

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(F.scaled_dot_product_attention(*self.qkv(x).chunk(3, -1)))


class WindowsApart(Packed):
    """Twins, Hiera: 2 windows an image as a dimension of their own, rank 5."""

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, 2, n // 2, 3, HEADS, c // HEADS).permute(3, 0, 1, 4, 2, 5).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(b, n, c))
