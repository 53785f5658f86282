"""A strongly typed TensorRT network from an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitc.errors import BuildError
from vitc.kernels.python_plugin import find_creator

if TYPE_CHECKING:
    import tensorrt


def parse_network(
    trt: Any, builder: tensorrt.Builder, logger: tensorrt.ILogger, model: Path | bytes
) -> tuple[tensorrt.INetworkDefinition, tensorrt.OnnxParser]:
    """The network of an ONNX file (or of its bytes), and the parser, which must outlive it.


    Raises `BuildError` naming each node that the parser refused, and why.
    """
    network = builder.create_network(creation_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if isinstance(model, bytes):
        parsed = parser.parse(model)
    elif not model.is_file():
        raise BuildError(f"there is no ONNX file {model}")
    else:
        parsed = parser.parse_from_file(str(model))
    if not parsed:
        reasons = [describe(parser.get_error(i)) for i in range(parser.num_errors)]
        raise BuildError(_refusal(trt, reasons or ["it gave no reason; is the file an ONNX model?"]))
    return network, parser


def creation_flags(trt: Any) -> int:
    """Strongly typed. From TensorRT 11 on every network is, and the flag may be gone."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def describe(error: tensorrt.ParserError) -> str:
    """One parser error: the node's name and operator (with the function it came from), and what was wrong."""
    place = f"{error.node_name() or '(unnamed)'} ({error.node_operator()})"
    callers = [caller for caller in error.local_function_stack() if caller] if error.local_function_stack() else []
    inside = f" in {' < '.join(callers)}" if callers else ""
    return f"{place}{inside}: {error.desc()}"


def _refusal(trt: Any, reasons: list[str]) -> str:
    text = f"{trt.__name__} {trt.__version__} does not take the ONNX model. " + "; ".join(reasons)
    creator = find_creator(trt)
    refusal = getattr(creator, "refusal", None)
    if creator is None or refusal is None:
        return text
    creator.refusal = None  # told once; the next model's failure is another
    return f"{text}; vitc::VitAttention: {refusal}"
