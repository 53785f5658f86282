"""Lowering: FX to ONNX, ONNX to an engine. The package root imports neither torch nor onnx."""
