"""What a bundle may hold at most. Far beyond any model that is known, near enough that a forged one costs little.

docs/bundle.md states them; writing and reading both keep them.
"""

from __future__ import annotations

#: manifest.json is some kilobytes, and read as a whole.
MANIFEST_BYTES = 16 << 20
#: Objects and lists in one another, in the manifest.
DEPTH = 64
#: Of a bundle, and the bytes of all of them together.
FILES = 4096
BYTES = 64 << 30
#: Protobuf's own limit for one message.
MODEL_BYTES = (2 << 30) - 1
#: Of the model's protobuf: what a walk over it takes grows with them, not with the bytes.
MODEL_FIELDS = 2_000_000
#: Characters of a path, and bytes of each part of it in UTF-8.
PATH = 1024
PART = 255
#: Inputs, outputs, dynamic dimensions, golden pairs: of each at most so many.
TENSORS = 1024
#: Characters of a tensor's or a dimension's name, dimensions of a tensor, and what one of them may be.
NAME = 1024
RANK = 16
SIZE = (1 << 31) - 1
#: One input at its smallest sizes, and one golden array.
TENSOR_BYTES = 4 << 30
