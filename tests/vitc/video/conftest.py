"""Bundles small enough to be made in a moment, whose answers are known: no training, no compiler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from vitc.bundle import BundleContents, Dim, TensorInfo, write_bundle
from vitc.calibration.preprocessing import Preprocessing
from vitc.task import Classification, Detection, Task

SIZE = (32, 48)  # height and width of the models' input
AS_IT_IS = Preprocessing(SIZE, fit="stretch", interpolation="nearest")


def _write(
    path: Path, nodes: list[Any], weights: dict[str, Any], outputs: dict[str, list[Any]], task: Task | None
) -> Path:
    infos = {"x": ["batch", 3, *SIZE]}
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in infos.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model)
    write_bundle(
        path,
        BundleContents(
            model=model.SerializeToString(),
            pipeline="",
            target={"name": "cpu"},
            inputs=(TensorInfo("x", "float32", ("batch", 3, *SIZE), AS_IT_IS.to_dict() if task else None),),
            outputs=tuple(TensorInfo(n, "float32", tuple(s)) for n, s in outputs.items()),
            structure={"kind": "dict", "items": {n: {"kind": "leaf", "name": n} for n in outputs}},
            dims={"batch": Dim(1, 4)},
            task=task,
        ),
    )
    return path


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """Says which of red, green and blue a picture has most of: its logits are ten times their means."""
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "ten"], ["logits"]),
    ]
    weights = {"axes": np.array([2, 3]), "ten": np.float32(10)}
    task = Classification(["red", "green", "blue"])
    return _write(tmp_path / "colors.vitc", nodes, weights, {"logits": ["batch", 3]}, task)


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    """Finds one bright square of 8 pixels in each cell of 8 pixels: a cell's score is its brightness, its box the cell
    and those around it. 24 boxes, one label."""
    rows, columns = SIZE[0] // 8, SIZE[1] // 8
    y, x = np.mgrid[:rows, :columns]
    corners = np.stack([(x - 1) / columns, (y - 1) / rows, (x + 2) / columns, (y + 2) / rows], -1).reshape(1, -1, 4)
    nodes = [
        helper.make_node("ReduceMean", ["x", "channels"], ["grey"], keepdims=1),
        helper.make_node("AveragePool", ["grey"], ["cells"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Reshape", ["cells", "shape"], ["column"]),
        helper.make_node("Sub", ["column", "half"], ["centred"]),
        helper.make_node("Mul", ["centred", "steep"], ["logits"]),
        helper.make_node("Mul", ["column", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "corners"], ["boxes"]),
    ]
    weights = {
        "channels": np.array([1]), "shape": np.array([0, rows * columns, 1]), "half": np.float32(0.5),
        "steep": np.float32(10), "zero": np.float32(0), "corners": corners.astype(np.float32),
    }  # fmt: skip
    task = Detection(["square"], form="xyxy", boxes="boxes", overlap=0.3)
    cells = rows * columns
    outputs = {"logits": ["batch", cells, 1], "boxes": ["batch", cells, 4]}
    return _write(tmp_path / "squares.vitc", nodes, weights, outputs, task)


@pytest.fixture
def without_task(tmp_path: Path) -> Path:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    return _write(tmp_path / "plain.vitc", nodes, {}, {"y": ["batch", 3, *SIZE]}, None)
