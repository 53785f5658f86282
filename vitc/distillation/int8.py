"""Training with INT8 in view (QAT): a tiled program as a student whose GEMMs compute in floating point what INT8 will.

    student = FakeQuantized(program, QuantizeInt8())
    vitc.distill(student.module, teacher, data)
    program = student.program()            the tiled program with these weights and ranges
    … quantize-int8                        the INT8 program, of the very same numbers

Rounding has the derivative 1 inside the range and 0 beyond (straight-through, Bengio et al., arXiv 1308.3432).
"""

from __future__ import annotations

import torch
from torch import Tensor

from vitc.calibration.findings import Findings
from vitc.graph import Rewriter
from vitc.graph.nodes import val
from vitc.graph.program import Program
from vitc.passes.quantization.quantize_int8 import QuantizeInt8
from vitc.passes.quantization.scales import step_of, weight_steps

_STEP = "int8_log_step"


class FakeQuantized:
    """`module` is the graph of a program at stage 'tiled', with weights of its own, trainable. Its INT8 attentions, if
    `options` has any, stay in floating point here.

    `options`: which GEMMs become INT8, and how ranges are chosen that the program does not know yet.
    `learn_steps`: the activations' step sizes are trained too (LSQ, Esser et al., arXiv 1902.08153), as logarithms, so
    that an optimizer's rate is a relative change (Jain et al., arXiv 1903.08066).

    Raises CalibrationError if ranges are missing and the program has no calibration data.
    """

    def __init__(self, program: Program, options: QuantizeInt8, learn_steps: bool = False) -> None:
        sites = options.sites(program)
        self._tiled = options.with_ranges(program, sites).owned()
        fork = self._tiled.fork()
        by_name = {node.name: node for node in fork.graph.nodes}
        rewriter = Rewriter(fork.module, "fake-quantize")
        self._steps: dict[str, str] = {}
        self._widths = {x.name: int(x.meta["val"].shape[-1]) for x in sites.linears()}
        for tensor, gemms in sites.gemms.items():
            x = by_name[tensor.name]
            home = self._steps[x.name] = rewriter.unique_name(f"{_STEP}_{x.name}")
            with rewriter.at(by_name[gemms[0].name]):
                step = torch.tensor(step_of(self._tiled.findings.ranges[x.name]), dtype=val(x).dtype)
                rounded = rewriter.call(round_activation, x, rewriter.parameter(home, step.log()))
            for gemm in (by_name[g.name] for g in gemms):
                with rewriter.at(gemm):
                    weight = rewriter.call(round_weight, gemm.args[1])
                rewriter.edit(gemm, args=(rounded, weight, *gemm.args[2:]))
        self.module = rewriter.finish()
        for home in self._steps.values():
            self.module.get_parameter(home).requires_grad_(learn_steps)

    def program(self) -> Program:
        """The program at stage 'tiled', with the weights and the ranges as they are now."""
        weights = self.module.state_dict()
        trained = self._tiled.owned()
        with torch.no_grad():
            for name, tensor in trained.module.state_dict().items():
                tensor.copy_(weights[name])
        ranges = {name: 127 * float(_step(weights[home])) for name, home in self._steps.items()}
        # The trained biases have taken in the mean error already: quantize-int8 finds nothing to correct.
        none = {name: torch.zeros(width) for name, width in self._widths.items()}
        return trained.calibrated(Findings(ranges=ranges, means=none))


def round_activation(x: Tensor, log_step: Tensor) -> Tensor:
    """Q and DQ of x with one step, whose gradient is scaled by 1/√(numel · 127), as LSQ has it."""
    scale = (x.numel() * 127) ** -0.5  # math.sqrt would make a symbolic batch the example's
    grown: Tensor = log_step.exp() * scale
    step = grown + (_step(log_step) - grown).detach()
    return _round(torch.clamp(x / step, -128, 127)) * step


def _step(log_step: Tensor) -> Tensor:
    """The step as quantize-int8 keeps it: an FP16 number."""
    return log_step.detach().exp().half().to(log_step.dtype)


def round_weight(weight: Tensor) -> Tensor:
    """Q and DQ of a weight with the steps that quantize-int8 will choose for it, per output channel."""
    steps = weight_steps(weight).to(weight.dtype).reshape([-1] + [1] * (weight.ndim - 1))
    return _round(torch.clamp(weight / steps, -127, 127)) * steps


def _round(x: Tensor) -> Tensor:
    return x + (torch.round(x) - x).detach()
