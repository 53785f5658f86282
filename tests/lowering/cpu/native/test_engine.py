"""The native engine on whole graphs: parity with the libraries, threads, what it refuses and how that is reported."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from native_graphs import changed, transformer

from vitc.errors import BuildError, InputError, InternalError, MissingDependencyError
from vitc.lowering.cpu import choose, native_refusal, open_engine
from vitc.lowering.cpu.engine import Engine
from vitc.lowering.cpu.native import library
from vitc.lowering.cpu.native.engine import NativeEngine
from vitc.lowering.cpu.native.library import unavailable
from vitc.lowering.cpu.native.match import Unsuitable, match
from vitc.lowering.cpu.openvino_engine import OpenVinoEngine
from vitc.lowering.cpu.prepare import prepared_proto

RNG = np.random.default_rng(0)
needs_vnni = pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))


def host(part: onnx.ModelProto) -> Engine:
    with prepared_proto(part, "openvino") as ready:
        return OpenVinoEngine(ready, 1)


def native(proto: onnx.ModelProto) -> NativeEngine:
    return NativeEngine(proto, host, threads=2, portable=True)


@pytest.mark.parametrize("options", [{}, {"layer_scale": True}, {"approximate": "tanh"}, {"tokens": 300, "depth": 1}])
def test_it_computes_what_onnxruntime_computes(options: dict[str, object]) -> None:
    proto = transformer(**options)  # type: ignore[arg-type]
    tokens = int(options.get("tokens", 5))  # type: ignore[call-overload]
    x = RNG.normal(size=(3, tokens, 32)).astype(np.float32)
    want = open_engine(proto.SerializeToString(), "onnxruntime", threads=1).run({"x": x})["y"]
    engine = native(proto)
    got = engine.run({"x": x})["y"]
    assert np.linalg.norm(got - want) <= 0.01 * np.linalg.norm(want)
    assert (engine.name, [p.name for p in engine.inputs], [p.name for p in engine.outputs]) == ("native", ["x"], ["y"])


def test_the_batch_may_change_and_threads_may_share_it() -> None:
    engine = native(transformer())
    inputs = [RNG.normal(size=(batch, 5, 32)).astype(np.float32) for batch in (1, 4, 2, 3) * 3]
    alone = [engine.run({"x": x})["y"] for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda x: engine.run({"x": x})["y"], inputs))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)


def test_features_of_several_blocks_come_out_whole() -> None:
    """Tensors in the middle of the residual stream are outputs: they may not be added to."""
    proto = transformer(depth=2)
    sums = [
        n.output[0]
        for n in proto.graph.node
        if n.op_type == "Add" and n.output[0] in match(proto.graph).blocks[6].output
    ]
    proto.graph.output.append(onnx.helper.make_tensor_value_info(sums[0], onnx.TensorProto.FLOAT, ["batch", 5, 32]))
    x = RNG.normal(size=(2, 5, 32)).astype(np.float32)
    want = open_engine(proto.SerializeToString(), "onnxruntime", threads=1).run({"x": x})
    engine = native(proto)
    first = engine.run({"x": x})
    engine.run({"x": -x})
    for name, value in want.items():
        assert np.linalg.norm(first[name] - value) <= 0.01 * np.linalg.norm(value)


def test_a_closed_engine_says_so() -> None:
    engine = native(transformer(depth=1))
    engine.close()
    engine.close()
    with pytest.raises(InputError, match="the native engine is closed; open it again"):
        engine.run({"x": np.zeros((1, 5, 32), np.float32)})


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (changed(transformer(), "VitAttention", pv="fp16"), "is not packed INT8 in and out"),
        (changed(transformer(), "VitAttention", layout="bnhd"), "is not packed INT8 in and out"),
        (transformer(dim=8, heads=4), "has heads of 8; multiples of 16 are packed"),
        (transformer(hidden=24), "is 32 x 24: rows in fours and columns in sixteens are packed"),
        (transformer(between="Relu"), "Relu 'Relu_.*' stands between the blocks"),
        (transformer(depth=0), "the graph has no INT8 linear layer"),
        (changed(transformer(), "LayerNormalization", axis=-2), "is quantized by itself, not behind a LayerNorm"),
    ],
)
def test_what_it_refuses(proto: onnx.ModelProto, message: str) -> None:
    with pytest.raises(Unsuitable, match=message):
        match(proto.graph)


@needs_vnni
def test_asked_for_by_name() -> None:
    x = np.ones((1, 5, 32), np.float32)
    proto = transformer()
    engine = open_engine(proto.SerializeToString(), "native", threads=1)
    np.testing.assert_allclose(engine.run({"x": x})["y"], native(proto).run({"x": x})["y"], rtol=0.02, atol=0.02)
    with pytest.raises(
        BuildError, match=r"the engine 'native' does not take the model: .*; 'openvino' and 'onnxruntime' do"
    ):
        open_engine(transformer(depth=0).SerializeToString(), "native")


def test_a_fallback_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "unavailable", lambda: None)
    monkeypatch.setattr(choose, "cpu_flags", lambda: frozenset())
    engine = open_engine(transformer(between="Relu").SerializeToString())
    assert engine.name in ("openvino", "onnxruntime")
    assert "not the native engine: " in engine.remark
    assert "stands between the blocks" in engine.remark
    assert open_engine(transformer(depth=0).SerializeToString()).remark == ""


def test_where_it_can_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unavailable(frozenset({"avx512f"})) == "this processor has no avx512bw, avx512vl, avx512dq, avx512_vnni"
    with monkeypatch.context() as patch:
        patch.setattr(library.shutil, "which", lambda name: None)
        assert unavailable(frozenset(library.NEEDED)) == "no C++ compiler: install g++ or clang++, or set CXX"
        with pytest.raises(MissingDependencyError, match=r"needs a C\+\+ compiler"):
            library.load(portable=True)
    monkeypatch.setattr(choose, "unavailable", lambda: None)
    monkeypatch.setattr(choose, "cpu_flags", lambda: frozenset({"amx_int8"}))
    assert "this processor has AMX" in str(native_refusal())
    monkeypatch.setattr(choose, "unavailable", lambda: "no compiler")
    with pytest.raises(MissingDependencyError, match="the engine 'native' can't be used here: no compiler"):
        open_engine(transformer().SerializeToString(), "native")


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty folder for compiled libraries; the loaded one is put away meanwhile."""
    monkeypatch.setenv("VITC_CACHE", str(tmp_path))
    library._load.cache_clear()
    yield tmp_path
    library._load.cache_clear()


def test_a_compiler_that_fails_is_quoted(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_FLAGS", ("-std=c++20", "--no-such-flag"))
    with pytest.raises(BuildError, match="the native CPU engine does not compile: .*--no-such-flag"):
        library.load(portable=True)


@pytest.mark.parametrize(
    ("compiler", "message"),
    [("/bin/false", "does not compile: /bin/false --version"), ("/bin/true", "/bin/true .* made no library")],
)
def test_a_compiler_that_is_none(compiler: str, message: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(BuildError, match=message):
        library.load(portable=True)


def test_a_cache_that_can_not_be_written(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / "native").write_text("a file")
    with pytest.raises(BuildError, match="can't be kept in .*native.* set VITC_CACHE to a folder of your own"):
        library.load(portable=True)


def quickly_made(path: Path) -> str:
    """A library of the same functions, compiled in a moment; its SHA-256."""
    source = path.with_suffix(".c")
    names = ("layout", "open", "run", "close", "peak")
    source.write_text("".join(f"int vitc_{name}(int i) {{ return -1; }}" for name in names))
    subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(path)], check=True)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_damaged_library_is_made_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Path] = []

    def compile_(_compiler: str, _flags: tuple[str, ...], path: Path) -> None:
        compiled.append(path)
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        digest = quickly_made(path)
        path.with_suffix(".sha256").write_text(digest)

    monkeypatch.setattr(library, "_compile", compile_)
    monkeypatch.setattr("vitc.lowering.cpu.native.tape.layout", lambda: [])
    for _ in range(2):
        library.load(portable=True)
        library._load.cache_clear()
    assert len(compiled) == 1
    path = compiled[0]
    part = path.read_bytes()[:100]
    path.unlink()  # it is mapped: another file takes its place
    path.write_bytes(part)
    for damage in (lambda: None, path.with_suffix(".sha256").unlink):
        damage()
        library.load(portable=True)
        library._load.cache_clear()
    assert len(compiled) == 3
    path.chmod(0o777)
    with pytest.raises(BuildError, match="is not loaded: .* can be written by others: chmod go-w"):
        library.load(portable=True)


def test_another_layout_is_our_fault(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cache / "other.so"
    quickly_made(path)
    with pytest.raises(InternalError, match=r"of csrc/ differ from those in tape\.py"):
        library._opened(path)


@pytest.mark.parametrize("failing", [BuildError("no room"), MissingDependencyError("no compiler")])
def test_auto_falls_back_where_it_can_not_be_made(failing: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(portable: bool) -> None:
        raise failing

    monkeypatch.setattr(choose, "unavailable", lambda: None)
    monkeypatch.setattr(choose, "cpu_flags", lambda: frozenset())
    monkeypatch.setattr("vitc.lowering.cpu.native.blocks.load", fail)
    engine = open_engine(transformer().SerializeToString(), threads=1)
    assert (engine.name != "native", engine.remark) == (True, f"not the native engine: {failing}")


def test_a_forked_child_computes_too() -> None:
    engine = native(transformer(depth=1))
    x = RNG.normal(size=(2, 5, 32)).astype(np.float32)
    want = engine.run({"x": x})["y"]
    with engine._lock:  # as if another thread ran while this one forks
        child = os.fork()
        if child == 0:
            same = (engine.run({"x": x})["y"] == want).all()
            engine.close()
            os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    np.testing.assert_array_equal(engine.run({"x": x})["y"], want)
