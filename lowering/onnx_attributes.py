"""The attributes of an ONNX node."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import helper


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """By name, texts as str. What refers to an attribute of the function around it has no value of its own, and is left
    out."""
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.type and not a.ref_attr_name}
    # Whatever bytes a file holds, a text comes of them: one that is no UTF-8 is then no value that is known.
    return {n: v.decode(errors="backslashreplace") if isinstance(v, bytes) else v for n, v in values.items()}
