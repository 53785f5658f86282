"""Says, before an engine is built, what it will do with an ONNX graph, block by block, and why. Needs no torch.

rules.toml   the rules, as data, each with its evidence
rules        the same as records, and the engines they are asked for
graph        an ONNX graph with what the rules ask of it
operands     how one operand of a product is quantized
gemm         which rule a product with a weight or a convolution falls under
attention    which rule an attention falls under
elementwise  what stands between the products
api          vitc.lint: a model in, a report out
report       the report
agreement    after the build: does the engine's layer log say what was predicted?
"""

from __future__ import annotations

from vitc.lowering.lint.agreement import Agreement, compare
from vitc.lowering.lint.api import lint
from vitc.lowering.lint.report import LintReport, Verdict
from vitc.lowering.lint.rules import Engine, engine_named, engines, rules

__all__ = ["Agreement", "Engine", "LintReport", "Verdict", "compare", "engine_named", "engines", "lint", "rules"]
