"""tiled → quantized: explicit symmetric INT8, and FP16 for the rest.

placement           which operators INT8 is for
observe/            what calibration images show of every tensor
calibrators         from a histogram to the largest magnitude that INT8 represents
error/              what rounding a tensor does to the model's outputs
ranges              the range of every tensor that becomes INT8
scales              step sizes, and weights in them
smoothing/          where channels can be scaled, and by how much
rounding/           which way each weight is rounded
gemms               a GEMM in INT8: its integers, its corrected bias
smooth_activations  the pass that moves outliers from activations into weights
tune_int8           the pass that trains with INT8 in view
quantize_int8       the pass that puts the Q/DQ pairs
to_fp16             the pass for what stays in floating point
"""
