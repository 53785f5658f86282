"""What criteria look at: batches of inputs, their labels, and the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Interpreter
from torch.utils._pytree import tree_leaves

from vitc.calibration.stream import CalibrationStream
from vitc.errors import InputError

#: (what the model returns, labels) → a scalar.
Loss = Callable[[Any, Any], torch.Tensor]


@dataclass(frozen=True)
class Samples:
    """`stream` gives inputs and labels; `loss` None is cross-entropy of the first output against class numbers
    [batch]."""

    stream: CalibrationStream
    loss: Loss | None = None

    def inputs(self) -> Iterator[tuple[torch.Tensor, ...]]:
        """The inputs of each batch."""
        return iter(self.stream)

    def losses(self, module: GraphModule) -> Iterator[torch.Tensor]:
        """The loss of each batch, ready for backward(). Raises InputError without labels."""
        for inputs, labels in self.stream.labelled():
            if labels is None:
                raise InputError("a criterion that needs gradients needs labels: pass data=batches of (inputs, labels)")
            leaves = Interpreter(module).run(*inputs, enable_io_processing=False)
            yield self._loss(module.graph.process_outputs(leaves), labels)

    def _loss(self, outputs: Any, labels: Any) -> torch.Tensor:
        if self.loss is not None:
            return self.loss(outputs, labels)
        first = next(leaf for leaf in tree_leaves(outputs) if isinstance(leaf, torch.Tensor))
        labels = torch.as_tensor(labels)
        if first.ndim != 2 or labels.shape != first.shape[:1] or labels.is_floating_point():
            raise InputError(
                f"outputs {list(first.shape)} with labels {list(labels.shape)} are no classification; "
                "pass loss=a function of (outputs, labels)"
            )
        return torch.nn.functional.cross_entropy(first, labels.long())
