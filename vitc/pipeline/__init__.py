"""The pass framework: what a pass is, how passes are named, ordered, written as text, and run.

base         what a pass is
registry     passes by name
text         pipelines as text, and back
order        what must come before what
default      the default pipeline, read top to bottom
manager      runs passes in order, and keeps the journal
instruments  watch a pipeline from outside: verify, dump, diff, numerics, progress
"""

from vitc.pipeline.base import Pass
from vitc.pipeline.instruments import Instrument
from vitc.pipeline.manager import run_pipeline
from vitc.pipeline.order import check_order, solve_order
from vitc.pipeline.registry import get_pass, known_passes, register_pass
from vitc.pipeline.text import parse_pipeline, print_pipeline

__all__ = [
    "Instrument",
    "Pass",
    "check_order",
    "get_pass",
    "known_passes",
    "parse_pipeline",
    "print_pipeline",
    "register_pass",
    "run_pipeline",
    "solve_order",
]
