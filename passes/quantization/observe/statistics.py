"""What calibration keeps of a tensor: a few numbers, or a bounded sample; all independent of the stream's length."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vitc.calibration.observer import Observer


class Third:
    """Shows one third of the last dimension to an observer: q, k or v of a packed tensor."""

    def __init__(self, part: int, observer: Observer) -> None:
        self.part, self.observer = part, observer

    def update(self, value: Tensor, images: int) -> None:
        self.observer.update(value.chunk(3, dim=-1)[self.part], images)

    def state(self) -> dict[str, Tensor]:
        return self.observer.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.observer.restore(state)


class ChannelStatistics:
    """Mean of each channel (the last dimension), and the two images that reach farthest up, and down, in it."""

    def __init__(self) -> None:
        self.rows = self.images = 0
        self.sum = torch.zeros(())
        self.highs = self.lows = torch.empty(0)

    def update(self, value: Tensor, images: int) -> None:
        each = value.float().reshape(images, -1, value.shape[-1])
        low, high = each.aminmax(dim=1)
        self.highs = _largest(torch.cat([self.highs, high]) if self.images else high)
        self.lows = -_largest(-torch.cat([self.lows, low]) if self.images else -low)
        self.sum = self.sum + each.sum((0, 1)).double()
        self.rows += each.shape[0] * each.shape[1]
        self.images += images

    def state(self) -> dict[str, Tensor]:
        seen = torch.tensor([self.rows, self.images])
        return {"seen": seen, "sum": self.sum, "highs": self.highs, "lows": self.lows}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.rows, self.images = (int(n) for n in state["seen"])
        self.sum, self.highs, self.lows = state["sum"], state["highs"], state["lows"]

    @property
    def mean(self) -> Tensor:
        return (self.sum / self.rows).float()

    @property
    def middle(self) -> Tensor:
        """The middle of each channel's range."""
        return (self.highs[0] + self.lows[0]) / 2

    @property
    def peak(self) -> Tensor:
        """The largest magnitude of each channel."""
        return torch.maximum(self.highs[0], -self.lows[0])

    def smoothed(self, shift: Tensor, scale: Tensor) -> ChannelStatistics:
        """Those of (x − shift) / scale."""
        result = ChannelStatistics()
        result.rows, result.images = self.rows, self.images
        result.sum = (self.sum - self.rows * shift) / scale
        result.highs, result.lows = (self.highs - shift) / scale, (self.lows - shift) / scale
        return result

    def unseen_clipping(self, limit: float, gains: Tensor) -> float:
        """What an image that calibration has not seen loses to clipping at `limit`: squared excess times gains [C].

        The largest of n images is passed by the next one with probability 1/(n+1), by an excess that is exponential for
        tails of the exponential kind (Rényi's representation: with the mean of the last spacing, here pooled over the
        channels in units of their ranges). E[excess²] beyond a limit d above the maximum is 2 θ² exp(−d / θ).
        """
        high, low = self.highs[0], -self.lows[0]
        share = 0.0
        if self.images > 1:
            spacings = torch.cat([high - self.highs[1], low + self.lows[1]]).mean()
            share = float(spacings / (high + low).mean().clamp_min(1e-30))
        if share == 0.0:  # one image, or the same one again
            share = _SPACING_OF_ONE_IMAGE
        excess = (share * (high + low)).clamp_min(1e-30)
        beyond = sum(torch.exp(-(limit - top).clamp_min(0) / excess) for top in (high, low))
        return float((gains * 2 * excess.square() * beyond).sum()) / (self.images + 1)


#: Of a channel's range: one image tells nothing of how images differ.
_SPACING_OF_ONE_IMAGE = 0.1


def _largest(values: Tensor) -> Tensor:
    return values.topk(min(2, values.shape[0]), dim=0).values


class ImageSample:
    """An input for a few images of the stream: each gets a random key, and the largest keys stay."""

    def __init__(self, images: int, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._size = images
        self._keys = torch.empty(0)
        self.images = torch.empty(0)
        self.seen = 0

    def update(self, value: Tensor, images: int) -> None:
        keys = torch.cat([self._keys, torch.rand(images, generator=self._generator)])
        kept = torch.cat([self.images, value]) if len(self._keys) else value
        chosen = torch.sort(keys, descending=True, stable=True).indices[: self._size]
        self._keys, self.images = keys[chosen], kept[chosen]
        self.seen += images

    def state(self) -> dict[str, Tensor]:
        seen = torch.tensor([self.seen, self._size])
        return {"seen": seen, "generator": self._generator.get_state(), "keys": self._keys, "images": self.images}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.seen, self._size = (int(n) for n in state["seen"])
        self._generator.set_state(state["generator"])
        self._keys, self.images = state["keys"], state["images"]
