"""tiled → quantized: explicit symmetric INT8."""
