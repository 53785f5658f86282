"""Distillation: a small or pruned student learns from its teacher, first the features of key layers, then the outputs.

    api.py         the one function          run.py          the loop, and resuming it
    config.py      stages and options        layers.py       layers by name, their outputs in view
    batches.py     data and its randomness   scope.py        student and teacher as a stage needs them
    losses.py      the two losses            checkpoint.py   one file a run
    optimizers.py  AdamW, rates              workers.py      one process, or Accelerate's
"""

from vitc.distillation.api import DistillResult, distill
from vitc.distillation.config import DistillConfig, Features, Logits

__all__ = ["DistillConfig", "DistillResult", "Features", "Logits", "distill"]
