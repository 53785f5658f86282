"""FX → ONNX: one file for every engine, emitted directly so that names, order and types stay in our hands.

model      a Program becomes a ModelProto: inputs, outputs, everything between
emitter    walks the graph once; the register of handlers, and what they emit with
ops_nn     layers: linear, convolution, norms, pooling, resize
ops_math   elementwise arithmetic, comparisons, reductions
ops_shape  data movement
ops_vitc   vitc's own operators: Q/DQ and attention
functions  the body of vitc::VitAttention in standard operators
"""
