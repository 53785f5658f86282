"""FX → ONNX: one file for every engine, emitted directly so that names, order and types stay in our hands."""
