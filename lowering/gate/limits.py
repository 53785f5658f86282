"""How large a model may be. The largest of vitc's zoo has some thousand nodes and a few levels of calls."""

from __future__ import annotations

#: Of the file itself: protobuf's own limit. Weights beyond it lie in files beside it.
FILE_BYTES = 2**31 - 1
#: Nodes with all function calls unfolded, those in bodies too.
NODES = 20_000
FUNCTIONS = 1_000
#: Functions that call functions, and bodies in bodies.
CALL_DEPTH = 32
BODY_DEPTH = 8
#: Initializers and constants.
TENSORS = 50_000
RANK = 32
#: Characters of a name.
NAME = 4_096
#: Of one tensor whose shape is known before the model runs, and of all together that are made of constants alone.
TENSOR_BYTES = 2**32
FOLDED_BYTES = 2**28
#: A walk along operators that only move elements ends after so many: nothing real is that far away.
MOVES = 64
