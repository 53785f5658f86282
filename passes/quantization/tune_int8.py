"""tune-int8: trains the weights with INT8 in view (QAT), the floating-point program being the teacher, before
quantize-int8.

The calibration images are all it needs: the labels are the teacher's outputs. Every fourth of them is not trained on
but judges: where training does not bring the INT8 outputs nearer there, the weights stay as they are. That is the usual
case: where INT8 alone is good, what is left to learn drowns in the noise of a few steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vitc.errors import CalibrationError, PassError
from vitc.graph.program import Program
from vitc.passes.quantization.quantize_int8 import QuantizeInt8
from vitc.passes.quantization.rounding.held_out import finders_and_judges
from vitc.pipeline import Pass, register_pass


@register_pass
@dataclass(frozen=True)
class TuneInt8(Pass):
    """Trains the weights with INT8 in view, the floating-point program being the teacher, and keeps them if that helps.

    epochs:      passes over the calibration images.
    rate:        the largest learning rate.
    learn_steps: also trains the activations' step sizes (LSQ).
    temperature: of the soft labels.
    batch_size:  images in one step.
    skip:        module paths, with wildcards, that stay in floating point, as in quantize-int8.
    seed:        of the order of the images.
    """

    name = "tune-int8"
    needs = "tiled"
    after = ("smooth-activations",)
    before = ("quantize-int8",)
    exact = False

    epochs: float = 3.0
    rate: float = 1e-4
    learn_steps: bool = False
    temperature: float = 1.0
    batch_size: int = 16
    skip: tuple[str, ...] = ()
    seed: int = 0

    def run(self, program: Program) -> Program:
        from vitc.distillation import DistillConfig, Logits, distill
        from vitc.distillation.int8 import FakeQuantized
        from vitc.distillation.losses import logits_loss

        student = FakeQuantized(program, QuantizeInt8(skip=self.skip, correct_bias=False), self.learn_steps)
        stage = Logits(epochs=self.epochs, rate=self.rate, temperature=self.temperature, soft=1.0)
        config = DistillConfig(batch_size=self.batch_size, weight_decay=0.0, seed=self.seed)
        images = self._images(program)
        finders, judges = finders_and_judges(len(images))

        @torch.no_grad()
        def divergence(module: torch.nn.Module) -> float:
            batches = images[judges].split(self.batch_size)
            losses = [len(x) * float(logits_loss(stage, module(x), program.module(x), None)) for x in batches]
            return sum(losses) / int(judges.sum())

        result = distill(
            student.module,
            program.module,
            images[finders],
            stages=(stage,),
            config=config,
            evaluate=lambda module: -divergence(module),
        )
        trained = student.program()
        before, after = (divergence(self._int8(p).module) for p in (program, trained))
        change = f"divergence of INT8 from floating point {before:.2e} → {after:.2e}"
        if after >= before:
            return program.note(f"left as it is, training did not help: {change}")
        return trained.note(f"tuned: {change}; {result}")

    def _int8(self, program: Program) -> Program:
        """As quantize-int8 will make it, but for attention."""
        options = QuantizeInt8(skip=self.skip, attention=False)
        sites = options.sites(program)
        return options.apply(*sites.on_copy(options.with_ranges(program, sites)))

    def _images(self, program: Program) -> torch.Tensor:
        if program.calibration is None:
            raise CalibrationError(
                "tune-int8 trains on the calibration data and there is none; pass calibration=images"
            )
        if len(program.example_inputs) != 1:
            raise PassError(
                f"tune-int8 trains models of one input, this one has {len(program.example_inputs)}; leave the pass out"
            )
        return torch.cat([batch[0] for batch in program.calibration])
