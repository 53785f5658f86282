"""The one gate for ONNX files: what lint and the engines read comes in here, whoever wrote it. Needs no torch.

A model that is admitted is whole, in order and of bounded size: no ring, no tensor shorter than it says, no function
that unfolds without end. What is refused is refused in seconds, and by a VitcError that says what to mend.

limits     how large a model may be
read       a path, bytes or a ModelProto becomes an admitted ModelProto
structure  nodes, bodies, functions and names, counted before anything walks them
tensors    initializers and constants against their own types and sizes
sizes      what the graph would make of its shapes, before an engine makes it
"""

from __future__ import annotations

from vitc.lowering.gate.read import admit, admit_for_engine

__all__ = ["admit", "admit_for_engine"]
