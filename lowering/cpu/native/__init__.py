"""vitc's own INT8 engine for processors with AVX512-VNNI.

`match` finds the run of transformer blocks in a quantized ONNX graph, `tape` writes it down as steps with packed
weights, `csrc/` runs them, `engine` puts the patch embedding before and the head behind on a library engine. See
docs/decisions/0031-native-cpu-engine.md.
"""
