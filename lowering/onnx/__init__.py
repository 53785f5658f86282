"""FX → ONNX: one file for every engine, emitted directly so that names, order and types stay in our hands.

model      a Program becomes a ModelProto: inputs, outputs, everything between
emitter          walks the graph once; the register of handlers, and what they emit with
arguments        which of an operator's arguments a handler reads; the others are refused
decompose        what torch makes of an operator without a handler
ops_elementwise  arithmetic, comparisons, logic, activations, casts
ops_reduce       reductions, products of matrices, softmax
ops_nn           layers: linear, convolution, norms, embedding
ops_pool         pooling and resizing
ops_shape        data movement
ops_index        picking elements and putting them; sorting
ops_create       tensors out of nothing, and arithmetic on sizes
ops_vitc         vitc's own operators: Q/DQ and attention
functions        the body of vitc::VitAttention in standard operators
"""
