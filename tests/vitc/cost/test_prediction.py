"""Predictions as blocks, rows and text."""

from __future__ import annotations

import json

import pytest

from vitc import targets
from vitc.cost import OpCost, block_of, predict
from vitc.cost.prediction import block_lines

ORIN = targets.load("orin")


def model() -> list[OpCost]:
    def op(name: str, module: str, **figures: object) -> OpCost:
        given = {"flops": 1e9, "bytes_read": 1e5, "bytes_written": 1e5, "weight_bytes": 1e6, **figures}
        return OpCost(name, module, "gemm", "int8", **given)  # type: ignore[arg-type]

    return [
        op("patch", "patch_embed.proj"),
        op("qkv", "blocks.0.attn.qkv"),
        op("fc1", "blocks.0.mlp.fc1", flops=0.0, weight_bytes=2e8),
        op("gelu", "blocks.0.mlp.act", flops=0.0, weight_bytes=0.0, fused_into_previous=True),
        op("qkv", "blocks.1.attn.qkv"),
        op("out", "", flops=0.0, weight_bytes=0.0),
    ]


@pytest.mark.parametrize(
    ("module", "block"),
    [
        ("blocks.3.attn.qkv", "blocks.3"),
        ("blocks.3", "blocks.3"),
        ("blocks.3.mlp.0", "blocks.3"),
        ("vit.encoder.layer.11.attention.output.dense", "vit.encoder.layer.11"),
        ("vision_model.encoder.layers.0.self_attn", "vision_model.encoder.layers.0"),
        ("encoder.layers.encoder_layer_7.mlp.3", "encoder.layers.encoder_layer_7"),
        ("layers.2.blocks.5.attn", "layers.2.blocks.5"),
        ("layers.1.downsample.norm", "layers.1"),
        ("features.1.0.attn", "features.1.0"),
        ("visual.transformer.resblocks.4.ln_1", "visual.transformer.resblocks.4"),
        ("head.fc", "head"),
        ("norm", "norm"),
        ("", "(model)"),
        ("blockset.3.x", "blockset"),
    ],
)
def test_block_of(module: str, block: str) -> None:
    assert block_of(module) == block


def test_blocks_sum_to_the_model() -> None:
    prediction = predict(model(), ORIN)
    assert [block.name for block in prediction.blocks] == ["patch_embed", "blocks.0", "blocks.1", "(model)"]
    assert sum(block.ms for block in prediction.blocks) == pytest.approx(prediction.ms)
    assert sum(block.flops for block in prediction.blocks) == prediction.flops == 3e9
    assert sum(block.weight_bytes for block in prediction.blocks) == prediction.weight_bytes == 2.03e8
    assert [block.kernels for block in prediction.blocks] == [1, 2, 1, 1]
    assert sum(block.kernels for block in prediction.blocks) == prediction.kernels == 5
    assert prediction.blocks[1].bound == "memory"
    assert prediction.blocks[2].bound == "compute"
    assert prediction.blocks[3].bound == "launch"


def test_rows_and_dict_are_plain_data() -> None:
    prediction = predict(model(), ORIN)
    data = json.loads(json.dumps(prediction.to_dict()))
    assert (data["target"], data["kernels"], len(data["ops"])) == ("orin", 5, 6)
    assert data["ops"][3]["bound"] == "fused"
    assert data["ops"][1]["block"] == "blocks.0"
    assert data["ops"][1]["name"] == "qkv"
    assert sum(row["ms"] for row in data["ops"]) == pytest.approx(data["ms"])


def test_text() -> None:
    assert predict(model(), ORIN).text() == "\n".join(
        [
            "block             ms  GFLOP  weights MB  kernels  bound by",
            "patch_embed    0.023   1.00        1.00        1  compute",
            "blocks.0       1.193   1.00      201.00        2  memory",
            "blocks.1       0.023   1.00        1.00        1  compute",
            "(model)        0.007   0.00        0.00        1  launch",
            "total on orin  1.247   3.00      203.00        5  memory",
            "floor 0.99 ms (every operation at 100 % of peak)",
        ]
    )


def test_a_line_a_block() -> None:
    """Equal neighbours share one."""
    blocks = predict(model(), ORIN).blocks
    assert block_lines([*blocks, blocks[-1]]) == [
        "patch_embed        0.023 ms, 1 kernel, bound by compute",
        "blocks.0           1.193 ms, 2 kernels, bound by memory",
        "blocks.1           0.023 ms, 1 kernel, bound by compute",
        "(model) … (model)  0.007 ms each, 1 kernel, bound by launch",
    ]


def test_nothing_to_predict() -> None:
    empty = predict([], ORIN)
    assert (empty.ms, empty.blocks, empty.floor_ms) == (0, (), 0)
    assert empty.text().splitlines()[1].startswith("total on orin  0.000")
