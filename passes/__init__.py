"""The rewrites, one a file. A pass stands in the file of its own name.

canonical/        captured → canonical: one spelling for every idea
pruning/          canonical → pruned: narrower layers, fewer heads
tiling/           pruned → tiled: attention without the N×N matrix
quantization/     tiled → quantized: INT8 where it gains, FP16 where it is safe
all               imports them all, which registers them
interpreter       runs a graph, or a stretch of it, node by node
output_gradients  how much an error in a tensor matters at the model's outputs
"""
