"""From the last graph to an engine. The package root imports neither torch nor onnx.

onnx/         a Program becomes an ONNX file, the same one for every engine
onnx_attributes  the attributes of an ONNX node
substitution  vitc::VitAttention as TensorRT's plugin: matched and marked
gate/         ONNX files come in here: what is not whole, in order and bounded is refused
lint/         says before a build what an engine will do with an ONNX graph
tensorrt/     ONNX to a TensorRT engine and the table of its layers
cpu/          ONNX on this processor: ONNX Runtime, OpenVINO, or vitc's own INT8 kernels
"""
