"""The graph: what it holds, how it is read, how it is changed, how it is written.

program      what flows through the pipeline
ops          the operators that vitc adds to ATen; importing this package registers them
stages       what is legal at each stage, as data
nodes        reading a node
attention_call  one call of an attention, by name: read, changed, made
sdpa         the arguments of scaled_dot_product_attention, by name
movement     data movement, and what a chain of it amounts to
rewriter     the one way a pass changes a graph
printer      a graph as text
reader       a text dump as a Program that runs
structure    tensors in whatever structure a model takes or returns
fingerprint  twelve digits that tell one program, or one set of images, from another
"""

import vitc.graph.ops  # noqa: F401  registers torch.ops.vitc for all who read or write graphs
from vitc.graph.nodes import constant, is_constant, module_path, shape_of, val
from vitc.graph.printer import print_graph
from vitc.graph.rewriter import Rewriter

__all__ = ["Rewriter", "constant", "is_constant", "module_path", "print_graph", "shape_of", "val"]
