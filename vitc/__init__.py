"""vitc: the compiler that makes Vision Transformers fast on real devices."""

__version__ = "0.1.0"
