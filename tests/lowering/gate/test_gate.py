"""What comes through the gate, and what is refused, each in its own words and before anything walks it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_models import block

from vitc.errors import BuildError, InputError
from vitc.lowering.gate import admit, admit_for_engine, limits

X = helper.make_tensor_value_info("x", 1, ["batch", 4])
Y = helper.make_tensor_value_info("y", 1, ["batch", 4])
OPSETS = [helper.make_opsetid("", 20), helper.make_opsetid("d", 1), helper.make_opsetid("vitc", 1)]
node = helper.make_node


def model(nodes: list[Any], tensors: tuple[Any, ...] = (), functions: tuple[Any, ...] = ()) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", [X], [Y], list(tensors))
    made = helper.make_model(graph, opset_imports=OPSETS, functions=list(functions))
    made.ir_version = 10
    return made


def with_tensor(**fields: Any) -> onnx.ModelProto:
    """x + a tensor of these fields."""
    return model([node("Add", ["x", "w"], ["y"])], (TensorProto(name="w", **fields),))


def function(name: str, *calls: str) -> onnx.FunctionProto:
    """A function of other functions in a row."""
    names = [f"t{i}" for i in range(len(calls))] + ["b"]
    nodes = [node(call, [names[i - 1] if i else "a"], [names[i]], domain="d") for i, call in enumerate(calls)]
    nodes.append(node("Relu", [nodes[-1].output[0] if nodes else "a"], ["b"]))
    return helper.make_function("d", name, ["a"], ["b"], nodes, OPSETS)


CALL = [node("F0", ["x"], ["y"], domain="d")]
RELU = [node("Relu", ["x"], ["y"])]
DOUBLING = (*(function(f"F{i}", *[f"F{i + 1}"] * 2) for i in range(30)), function("F30"))
DEEP = (*(function(f"F{i}", f"F{i + 1}") for i in range(40)), function("F40"))
NESTED = helper.make_graph([node("Relu", ["x"], ["z"])], "n", [], [helper.make_tensor_value_info("z", 1, None)])
for _ in range(10):
    inner = node("If", ["c"], ["z"], then_branch=NESTED, else_branch=NESTED)
    NESTED = helper.make_graph([inner], "n", [], [helper.make_tensor_value_info("z", 1, None)])


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (model([]), "it has no nodes"),
        (model([node("Identity", ["b"], ["a"]), node("Identity", ["a"], ["b"]), node("Add", ["x", "a"], ["y"])]),
         "ONNX's own checker says: .*topologically sorted"),
        (model([node("Relu", ["x"], ["y"]), node("Relu", ["x"], ["y"])]), "single static assignment"),
        (model([node("Add", ["x"], ["y"])]), "checker says: .*input size 1"),
        (model([node("Add", ["x", "nowhere"], ["y"])]), "nowhere"),
        (model(CALL, functions=(function("F0", "F0"),)), "its function 'F0' calls itself"),
        (model(CALL, functions=(function("F0", "F1"), function("F1", "F0"))), "its function 'F[01]' calls itself"),
        (model(CALL, functions=DOUBLING), "more than 20000 nodes with all its functions unfolded"),
        (model(CALL, functions=DEEP), "call each other 33 deep; the most is 32"),
        (model(CALL, functions=(function("F0"), function("F0"))), "two of its functions have the same name"),
        (model(RELU, functions=tuple(function(f"F{i}") for i in range(1001))), "1001 functions; the most is 1000"),
        (model([node("If", ["c"], ["y"], then_branch=NESTED, else_branch=NESTED)]), "bodies in bodies, more than 8"),
        (model([node("Relu", ["x"], ["y"], name="n" * 5000)]), "a name in it has 5000 characters; the most is 4096"),
        (with_tensor(data_type=1, dims=[4], raw_data=b"12"), r"'w' of shape \[4\] has 2 bytes, not 16"),
        (with_tensor(data_type=1, dims=[4], float_data=[1.0]), r"'w' of shape \[4\] has 1 numbers, not 4"),
        (with_tensor(data_type=1, dims=[1], int32_data=[1]), "has its data in int32_data, not in float_data"),
        (with_tensor(data_type=1, dims=[1]), "has its data in no field, not in float_data"),
        (with_tensor(data_type=3, dims=[1], int32_data=[200]), "has numbers that its element type can't hold"),
        (with_tensor(data_type=99, dims=[1], raw_data=b"1234"), "the element type 99, which is none of numbers"),
        (with_tensor(data_type=8, dims=[1], string_data=[b"a"]), "the element type 8, which is none of numbers"),
        (with_tensor(data_type=1, dims=[-4], raw_data=b""), r"has the shape \[-4\]"),
    ],
)  # fmt: skip
def test_what_does_not_come_in(proto: onnx.ModelProto, message: str) -> None:
    began = time.monotonic()
    with pytest.raises(InputError, match=f"not an ONNX model that vitc takes: (.|\n)*{message}"):
        admit(proto.SerializeToString(), InputError)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (model([node("If", ["c"], ["y"], then_branch=helper.make_graph([node("Relu", ["x"], ["z"])], "t", [], [Y]))]),
         "the operator If with a body of its own|checker"),
        (model([node("MatMul", ["x"], ["y"], domain="d")]), "its operator d::MatMul has the name of a known one"),
        (model([node("VitAttention", ["x"], ["y"], domain="vitc")]), r"its attention \['y'\] can't be read: .* lacks"),
        (model([node("Constant", [], ["s"], value_ints=[2**20, 2**20]), node("ConstantOfShape", ["s"], ["c"]),
                node("Add", ["x", "c"], ["y"])]), "its tensor 'c' would have 4398046511104 bytes; the most is"),
        (model([node("Constant", [], ["s"], value_ints=[2**13, 2**13]), node("ConstantOfShape", ["s"], ["c"]),
                node("Neg", ["c"], ["d"]), node("Add", ["x", "d"], ["y"])]),
         "its constants would have more than 268435456 bytes"),
        (model([node("Constant", [], ["a"], value_float=0.0), node("Constant", [], ["b"], value_float=1e9),
                node("Constant", [], ["s"], value_float=1.0), node("Sqrt", ["b"], ["e"]),
                node("Range", ["a", "e", "s"], ["c"]), node("Add", ["x", "c"], ["y"])]),
         "its constant 'c', made by Range, may be of any size"),
    ],
)  # fmt: skip
def test_what_an_engine_is_spared(proto: onnx.ModelProto, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        admit_for_engine(proto.SerializeToString())


def test_what_comes_in_is_as_it_was() -> None:
    data = block()
    assert admit(data, InputError).SerializeToString() == onnx.load_model_from_string(data).SerializeToString()
    assert admit_for_engine(data).graph.node


def test_an_operator_that_onnx_does_not_know_is_left_to_the_engine() -> None:
    admit_for_engine(model([node("NoSuchOperator", ["x"], ["y"])]).SerializeToString())
    with_bodies = model([node("Relu", ["x"], ["y"], domain="com.microsoft")])
    with_bodies.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    admit_for_engine(with_bodies.SerializeToString())


def external(folder: Path, size: int = 16, **given: str) -> Path:
    """x + a tensor that lies in another file."""
    proto = with_tensor(data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": "w.bin", **given}.items():
        proto.graph.initializer[0].external_data.add(key=key, value=value)
    (folder / "w.bin").write_bytes(np.arange(size // 4, dtype=np.float32).tobytes())
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_external_data_is_brought_in(tmp_path: Path) -> None:
    proto = admit(external(tmp_path, 24, offset="8", length="16"), InputError)
    np.testing.assert_array_equal(numpy_helper.to_array(proto.graph.initializer[0]), [2, 3, 4, 5])
    assert not admit(external(tmp_path), InputError, largest=8).graph.initializer[0].raw_data
    given = admit(external(tmp_path).read_bytes(), InputError, read=lambda location: bytes(16) if location else b"")
    np.testing.assert_array_equal(numpy_helper.to_array(given.graph.initializer[0]), [0, 0, 0, 0])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"location": "../w.bin"}, r"keeps weights in '\.\./w\.bin'; they lie beside the model"),
        ({"location": "/etc/passwd"}, "they lie beside the model"),
        ({"location": ""}, "they lie beside the model"),
        ({"location": "none.bin"}, "there is no such file beside it"),
        ({"location": "link.bin"}, "is or goes through a link"),
        ({"offset": "-1"}, "lies at '-1' of another file, which is no place"),
        ({"length": "many"}, "lies at 'many' of another file"),
        ({"length": "4"}, "holds 4 of it from 0 on"),
        ({"offset": "4"}, "needs 16 bytes; 'w.bin' of 16 bytes holds 16 of it from 4 on"),
    ],
)
def test_external_data_that_is_not_there(given: dict[str, str], message: str, tmp_path: Path) -> None:
    (tmp_path / "link.bin").symlink_to("w.bin")
    with pytest.raises(BuildError, match=message):
        admit(external(tmp_path, **given), BuildError)


def test_external_data_of_bytes_alone(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="was not given with the files beside it: give its path"):
        admit(external(tmp_path).read_bytes(), BuildError)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "is not a plain file"),
        (lambda path: path.write_bytes(b"not a model"), "it can't be parsed"),
        (lambda path: None, "No such file"),
    ],
)
def test_files_that_are_none(make: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    make(tmp_path / "m.onnx")
    with pytest.raises(BuildError, match=rf"m\.onnx: not an ONNX model that vitc takes: .*{message}"):
        admit(tmp_path / "m.onnx", BuildError)


def test_a_file_beyond_protobuf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FILE_BYTES", 10)
    (tmp_path / "m.onnx").write_bytes(b"x" * 11)
    with pytest.raises(BuildError, match="has more than 10 bytes"):
        admit(tmp_path / "m.onnx", BuildError)
