"""The images that a rounding of weights is found on, and those that judge it.

They are a bounded sample of the calibration stream; three of four find, the others judge. Tokens count by how much an
error there moves the model's outputs (output_gradients.py): without that the class token, which is all that a head
reads, would count like any patch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.fx import Node

from vitc.graph.fingerprint import digest, model_fingerprint
from vitc.graph.program import Program
from vitc.passes.quantization.error.importance import ProbeImages
from vitc.passes.quantization.observe.observe import observe
from vitc.passes.quantization.rounding.held_out import finders_and_judges

#: Tokens' worth of images that the moments are taken from, and images at most.
_TOKENS, _MOST = 16384, 1024
#: (a place in the graph, what to compute there) → what was found.
Keeper = Callable[[str, Callable[[], dict[str, Tensor]]], dict[str, Tensor]]


class RoundingSample:
    """Images of the calibration stream in batches, and which of them judge (bool [images] a batch)."""

    def __init__(self, program: Program, seed: int) -> None:
        self.images = ProbeImages(program, seed, _TOKENS, _MOST)
        observe(program, self.images.observers())
        self.batches = list(self.images.batches())
        sizes = [batch[0].shape[0] for batch in self.batches]
        #: Which images find the rounding, and which judge it (bool [images] a batch).
        self.finders, self.judges = (list(mask.split(sizes)) for mask in finders_and_judges(sum(sizes)))
        self._journal = None if program.calibration is None else program.calibration.journal

    def keeper(self, quantized: Program, method: str) -> Keeper:
        """Asks the calibration journal, if there is one, before it computes what a method finds at one place of a
        quantized program."""
        if self._journal is None:
            return lambda _, compute: compute()
        images = digest(tensors=[t for batch in self.batches for t in batch])
        mark = (model_fingerprint(quantized.module), images, str(self.images.seed), method)
        journal = self._journal
        return lambda place, compute: journal.ask((*mark, place), compute)

    def token_gains(self, nodes: Sequence[Node]) -> dict[str, list[Tensor]]:
        """By node, what a squared error of a token adds to the outputs' squared error: [images, tokens] a batch, of
        mean 1. A node without influence on the outputs has ones."""
        found: dict[str, list[Tensor]] = {n.name: [] for n in nodes}
        for count, chunk in self.images.gradients(list(nodes)):
            for node in nodes:
                gradient = chunk[node][1].float()
                found[node.name].append(gradient.reshape(count, -1, gradient.shape[-1]).square().sum(-1))
        for name, gains in found.items():
            mean = float(torch.cat(gains).mean())
            found[name] = [g / mean if mean > 0 else torch.ones_like(g) for g in gains]
        return found
