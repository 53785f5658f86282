"""GPTQ: rounds a weight column by column, and lets the columns not rounded yet make up for each error.

Frantar et al., arXiv 2210.17323, algorithm 1: with H the second moment of the layer's inputs, and U the upper Cholesky
factor of H⁻¹, the error e of column j changes each later column k by −e · U[j, k] / U[j, j]. The columns with the
largest H[j, j] go first, while there are many others to make up for them.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Of the mean diagonal, added to it: few images leave H singular.
_DAMPING = 0.01
#: Columns whose effect on the others is added up before it is applied: one product instead of many.
_LAZY = 128


def gptq(weight: Tensor, steps: Tensor, moment: Tensor) -> Tensor:
    """Integers in [-127, 127], int8 [out, in], for a weight [out, in] with the FP32 `steps` [out].

    `moment` [in, in]: Σ x xᵀ over the layer's inputs x. An input that is always zero is rounded to the nearest.
    """
    moment = moment.double().clone()
    diagonal = moment.diagonal()
    diagonal += _DAMPING * diagonal.mean()
    diagonal[diagonal == 0] = 1.0  # no input at all: any order, and nothing to make up for
    order = diagonal.argsort(descending=True, stable=True)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moment[order][:, order]))
    upper = torch.linalg.cholesky(inverse, upper=True)
    scale = steps.double()[:, None]
    left = weight.double()[:, order] / scale  # in steps, with the errors so far made up for
    rounded = torch.empty_like(left)
    for start in range(0, left.shape[1], _LAZY):
        stop = min(start + _LAZY, left.shape[1])
        errors = torch.empty_like(left[:, start:stop])
        for j in range(start, stop):
            rounded[:, j] = left[:, j].round().clamp(-127, 127)
            errors[:, j - start] = (left[:, j] - rounded[:, j]) / upper[j, j]
            left[:, j + 1 : stop] -= errors[:, j - start, None] * upper[j, j + 1 : stop]
        left[:, stop:] -= errors @ upper[start:stop, stop:]
    return rounded[:, order.argsort()].to(torch.int8)
