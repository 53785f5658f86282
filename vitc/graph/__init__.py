"""Tools every pass uses: reading nodes, rewriting safely, printing."""

import vitc.graph.ops  # noqa: F401  registers torch.ops.vitc for all who read or write graphs
from vitc.graph.nodes import constant, is_constant, module_path, shape_of, val
from vitc.graph.printer import print_graph
from vitc.graph.rewriter import Rewriter

__all__ = ["Rewriter", "constant", "is_constant", "module_path", "print_graph", "shape_of", "val"]
