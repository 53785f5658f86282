"""Reads an engine's layers from the lines TensorRT logs after a build.

With detailed profiling verbosity they give a layer's type, kernel, tensors, and the ONNX nodes it came from. The log
needs no GPU.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from vitc.errors import BuildError
from vitc.lowering.tensorrt.records import RawLayer, Tensor

# A tensor's own words, in the log. Newer versions write "Datatype: Half, Format: …", older ones
# "Format/Datatype: Half" or "Format/Datatype: Row major linear FP16 format (kLINEAR)".
TENSOR = re.compile(
    r"\{ Name: (?P<name>.*?), .*?Dimensions: \[(?P<shape>[^\]]*)\].*?(?:Datatype|Type): (?P<type>[^,}]*)"
)
HEAD = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<type>[^,]*)")
NODE = re.compile(r"\[ONNX Layer: (.*?)\](?=\x1f|\[ONNX Layer: |$)")
DTYPES = (
    (re.compile(r"\b(Half|FP16|Float16)\b", re.IGNORECASE), "float16"),
    (re.compile(r"\b(BF16|BFloat16)\b", re.IGNORECASE), "bfloat16"),
    (re.compile(r"\b(Float|FP32|Float32)\b", re.IGNORECASE), "float32"),
    (re.compile(r"\bInt8\b", re.IGNORECASE), "int8"),
    (re.compile(r"\bInt32\b", re.IGNORECASE), "int32"),
    (re.compile(r"\bInt64\b", re.IGNORECASE), "int64"),
    (re.compile(r"\bBool\b", re.IGNORECASE), "bool"),
)


def layers_from_log(messages: Iterable[str]) -> tuple[RawLayer, ...]:
    """The layers of the last engine described in a VERBOSE build log; () where none is."""
    blocks = [text for text in messages if text.startswith("Layers:\n")]
    if not blocks:
        return ()
    lines = blocks[-1].split("\n\n")[0].splitlines()[1:]
    return tuple(_layer_from_line(line) for line in lines if line.startswith("Name: "))


def _layer_from_line(line: str) -> RawLayer:
    head = HEAD.match(line)
    if head is None:
        raise BuildError(f"TensorRT logged a layer in a form vitc does not know: {line[:200]!r}")
    metadata = line.rpartition("Metadata: ")[2] if "Metadata: " in line else ""
    tactic = re.search(r"TacticName: (.*?)(?:, \w+: |$)", line)
    return RawLayer(
        name=head["name"],
        type=head["type"],
        tactic=tactic.group(1) if tactic else "",
        inputs=_tensors(_section(line, "Inputs")),
        constants=_tensors(_section(line, "Constants")),
        outputs=_tensors(_section(line, "Outputs")),
        nodes=nodes_of(metadata),
    )


def _section(line: str, title: str) -> str:
    """What stands between the brackets after `title`; tensors hold brackets themselves."""
    start = line.find(f", {title}: [")
    if start < 0:
        return ""
    start += len(f", {title}: [")
    depth = 1
    for i in range(start, len(line)):
        depth += {"[": 1, "]": -1}.get(line[i], 0)
        if depth == 0:
            return line[start:i]
    return line[start:]


def _tensors(text: str) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(match["name"], dtype_of(match["type"]), _shape(match["shape"].split(",")))
        for match in TENSOR.finditer(text)
    )


def _shape(parts: Iterable[Any]) -> tuple[int, ...]:
    return tuple(int(part) for part in parts if str(part).strip())


def dtype_of(text: str) -> str:
    """The type in TensorRT's words: float16 for "Half" and "Row major linear FP16 format".

    What is not known stays as TensorRT wrote it.
    """
    for pattern, dtype in DTYPES:
        if pattern.search(text):
            return dtype
    return text.strip()


def nodes_of(metadata: str) -> tuple[str, ...]:
    """The ONNX nodes named in a layer's metadata.

    A node of an inlined function reads "node_of_y | /blocks.0/attn/VitAttention (VitAttention)"; it counts as
    the node that calls.
    """
    names = (match.group(1) for match in NODE.finditer(metadata))
    return tuple(dict.fromkeys(_caller(name) for name in names))


def _caller(name: str) -> str:
    _, bar, call = name.rpartition(" | ")
    return re.sub(r" \([^)]*\)$", "", call) if bar else name
