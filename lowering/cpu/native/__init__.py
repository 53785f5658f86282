"""vitc's own INT8 engine for processors with AVX512-VNNI. See docs/decisions/0031-native-cpu-engine.md.

match    finds the run of transformer blocks in a quantized ONNX graph
check    holds every width, kind and scale of it to the others
tape     writes it down as steps, with packed weights and folded scales
library  compiles csrc/ with the system's C++ compiler, and loads it
csrc/    the kernels
blocks   the tape, its buffers and the threads, ready to run
engine   a library engine before the first block, the blocks, and the library again
"""
