"""What a layer of an engine is, to someone who asks whether INT8 arrived.

The rules are data; the first that fits counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from vitc.lowering.tensorrt.records import RawLayer


class Kind(str, Enum):
    """The kinds a table counts."""

    PLUGIN = "plugin"
    FUSED_ATTENTION = "fused attention"
    INT8_GEMM = "INT8 GEMM"
    DEQUANTIZED_GEMM = "dequantize + FP GEMM"
    FP16_GEMM = "FP16 GEMM"
    FP32_GEMM = "FP32 GEMM"
    INT8_CONVOLUTION = "INT8 convolution"
    FP_CONVOLUTION = "FP convolution"
    REFORMAT = "reformat"
    NORMALISATION = "normalization"
    OTHER = "other"


@dataclass(frozen=True)
class Rule:
    """A layer is of `kind` where all that is given fits."""

    kind: Kind
    type: str = ""
    """Pattern the whole layer type must match."""
    kernel: str = ""
    """Pattern to be found in the layer's name or its tactic's."""
    node: str = ""
    """Pattern the last part of one of its ONNX nodes' names must match."""
    reads: str = ""
    """Data type of the first input."""
    weights: str = ""
    """Data type of the largest constant with two dimensions or more."""
    touches: str = ""
    """Data type of one of its inputs or of its largest constant."""

    def fits(self, layer: RawLayer) -> bool:
        """Whether `layer` is all that this rule asks."""
        operators = [node.rpartition("/")[2] for node in layer.nodes]
        return (
            _matches(self.type, layer.type)
            and (not self.kernel or re.search(self.kernel, f"{layer.name} {layer.tactic}") is not None)
            and (not self.node or any(_matches(self.node, operator) for operator in operators))
            and (not self.reads or any(tensor.dtype == self.reads for tensor in layer.inputs[:1]))
            and (not self.weights or _weight_dtype(layer) == self.weights)
            and (not self.touches or self.touches in {*(tensor.dtype for tensor in layer.inputs), _weight_dtype(layer)})
        )


def _matches(pattern: str, text: str) -> bool:
    return not pattern or re.fullmatch(pattern, text, re.IGNORECASE) is not None


def _weight_dtype(layer: RawLayer) -> str | None:
    matrices = [tensor for tensor in layer.constants if len(tensor.shape) > 1]
    if not matrices:
        return None

    def size(shape: tuple[int, ...]) -> int:
        product = 1
        for extent in shape:
            product *= extent
        return product

    return max(matrices, key=lambda tensor: size(tensor.shape)).dtype


# The kernels that TensorRT generates are called after the operations in them: __myl_CastMulAddMean…
MOVES = r"Tran|Cast|Copy|Move|Resh|Conc|Slic|Repl|Sque|Unsq|Perm|Pad"
GEMM_TYPES = r"gemm|.*MatrixMultiply|.*Gemm.*"
PRODUCT = r"^__myl_\w*Fc"
VECTOR_PRODUCT = r"^__myl_\w*MulSum(?!Sub)"
CONVOLUTION_TYPES = r"correlation|.*Convolution"

RULES = (
    Rule(Kind.PLUGIN, type=r"custom_layer|Plugin(V\d)?.*"),
    Rule(Kind.FUSED_ATTENTION, kernel=r"_mha|fmha|mhca|fused_attention|flash"),
    Rule(Kind.INT8_CONVOLUTION, type=CONVOLUTION_TYPES, reads="int8"),
    Rule(Kind.FP_CONVOLUTION, type=CONVOLUTION_TYPES),
    # Where an operand is dequantized inside of the kernel, the product runs in floating point: in the
    # generated fusion (…CastMulFc), in a matrix times a vector (…MulSum), and where INT8 weights meet
    # floating-point activations.
    Rule(Kind.DEQUANTIZED_GEMM, type="runtime_fusion", weights="int8"),
    Rule(Kind.DEQUANTIZED_GEMM, type="runtime_fusion", kernel=PRODUCT, touches="int8"),
    Rule(Kind.DEQUANTIZED_GEMM, type="kgen", kernel=VECTOR_PRODUCT, weights="int8"),
    Rule(Kind.DEQUANTIZED_GEMM, type=GEMM_TYPES, weights="int8", reads="float16"),
    Rule(Kind.DEQUANTIZED_GEMM, type=GEMM_TYPES, weights="int8", reads="float32"),
    Rule(Kind.INT8_GEMM, type=GEMM_TYPES, reads="int8"),
    Rule(Kind.INT8_GEMM, kernel=r"gemm_(s8|i8|int8)|imma"),
    Rule(Kind.FP16_GEMM, type=GEMM_TYPES, reads="float16"),
    Rule(Kind.FP32_GEMM, type=GEMM_TYPES, reads="float32"),
    Rule(Kind.FP16_GEMM, type="runtime_fusion", kernel=PRODUCT, weights="float16"),
    Rule(Kind.FP32_GEMM, type="runtime_fusion", kernel=PRODUCT, weights="float32"),
    Rule(Kind.FP16_GEMM, type="kgen", kernel=VECTOR_PRODUCT, weights="float16"),
    Rule(Kind.FP32_GEMM, type="kgen", kernel=VECTOR_PRODUCT, weights="float32"),
    Rule(Kind.REFORMAT, type=r"reformat|shuffle|reorder"),
    Rule(Kind.REFORMAT, type="kgen", kernel=rf"^__myl_({MOVES})+_myl"),
    Rule(Kind.NORMALISATION, node=r"(LayerNormalization|GroupNormalization|InstanceNormalization)(_\d+)?"),
    Rule(Kind.OTHER),
)


def kind_of(layer: RawLayer) -> Kind:
    """The kind of the first rule that fits; the last fits all."""
    return next(rule.kind for rule in RULES if rule.fits(layer))
