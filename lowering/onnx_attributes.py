"""The attributes of an ONNX node."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import helper


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """By name, texts as str. What refers to an attribute of the function around it has no value of its own, and is left
    out."""
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.type and not a.ref_attr_name}
    return {name: value.decode(errors="backslashreplace") if isinstance(value, bytes) else value for name, value in values.items()}
