"""Distillation: a small or pruned student learns from its teacher, first the features of key layers, then the outputs.

api.py         the one function          run.py          the loop, and resuming it
config.py      stages and options        layers.py       layers by name, their outputs in view
batches.py     data and its randomness   scope.py        student and teacher as a stage needs them
losses.py      the two losses            weights.py      the student's, their average, the best
optimizers.py  AdamW, rates              checkpoint.py   one file per run
int8.py        training with INT8        workers.py      one process, or Accelerate's
recover.py     for vitc.compile          progress.py     the bar
"""

from vitc.distillation.api import DistillResult, distill
from vitc.distillation.config import DistillConfig, Features, Logits

__all__ = ["DistillConfig", "DistillResult", "Features", "Logits", "distill"]
