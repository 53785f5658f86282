"""The attention kernel, the TensorRT plugin around it, its reference and its harness. Imports no torch."""
