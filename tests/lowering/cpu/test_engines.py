"""Both CPU engines against plain NumPy, from several threads, and each refusal."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from small_models import DIM, HEADS, WIDTH, Graph, attention_reference, block, heads

from vitc.errors import BuildError, InputError, MissingDependencyError, VitcError
from vitc.lowering.cpu import ENGINES, Port, available, choose, open_engine, preferred, prepare, rank_engines

RNG = np.random.default_rng(0)


def weights(model: bytes) -> list[np.ndarray]:
    return [numpy_helper.to_array(t) for t in onnx.load_model_from_string(model).graph.initializer]


def block_reference(model: bytes, x: np.ndarray) -> np.ndarray:
    first, last = (w for w in weights(model) if w.ndim == 2)
    q, k, v = np.split(x.astype(np.float64) @ first, 3, axis=-1)
    return attention_reference(heads(q), heads(k), heads(v)) @ last + x


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("batch", [1, 3])
def test_a_packed_attention_is_what_numpy_computes(name: str, batch: int) -> None:
    model = block()
    x = RNG.normal(size=(batch, 5, WIDTH)).astype(np.float32)
    engine = open_engine(model, name, threads=1)
    np.testing.assert_allclose(engine.run({"x": x})["y"], block_reference(model, x), atol=1e-5)
    assert engine.inputs == (Port("x", "float32", ("batch", 5, WIDTH)),)
    assert [(p.name, p.dtype) for p in engine.outputs] == [("y", "float32")]
    assert (engine.name, bool(engine.version)) == (name, True)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("layout", ["bnhd", "bhnd"])
@pytest.mark.parametrize("bias_rows", [0, 1, 2])
def test_the_other_layouts_and_biases(name: str, layout: str, bias_rows: int) -> None:
    n, m, batch = 5, 7, 4
    q, k, v = (RNG.normal(size=(batch, HEADS, t, DIM)).astype(np.float32) for t in (n, m, m))
    bias = RNG.normal(size=(bias_rows, HEADS, n, m)).astype(np.float32)
    g = Graph()
    names = ["q", "k", "v"] + ([g.const(bias)] if bias_rows else [])
    out = g.attention(names, layout=layout, has_bias=bias_rows > 0, windows=bias_rows > 1)
    dims = {"bnhd": lambda t: ["batch", t, WIDTH], "bhnd": lambda t: ["batch", HEADS, t, DIM]}[layout]
    model = g.model({"q": dims(n), "k": dims(m), "v": dims(m)}, out, ["batch", n, WIDTH])

    flat = {"bnhd": lambda t: np.ascontiguousarray(t.transpose(0, 2, 1, 3)).reshape(batch, -1, WIDTH)}
    feeds = {key: flat.get(layout, lambda t: t)(t) for key, t in (("q", q), ("k", k), ("v", v))}
    # Batch element b uses row b % rows of the bias.
    rows = np.tile(bias, (batch // bias_rows, 1, 1, 1)) if bias_rows else 0.0
    got = open_engine(model, name, threads=1).run(feeds)["y"]
    np.testing.assert_allclose(got, attention_reference(q, k, v, rows), atol=1e-5)


@pytest.mark.parametrize("name", ENGINES)
def test_fp16_runs_in_fp32_and_keeps_its_borders(name: str) -> None:
    model = block(dtype="float16")
    x = RNG.normal(size=(2, 5, WIDTH)).astype(np.float16)
    engine = open_engine(model, name, threads=1)
    got = engine.run({"x": x})["y"]
    assert got.dtype == np.float16
    assert (engine.inputs[0].dtype, engine.outputs[0].dtype) == ("float16", "float16")
    # One rounding to FP16 at the end is all the error there is: relative 2^-11.
    reference = block_reference(model, x)
    np.testing.assert_allclose(got, reference, rtol=2**-10, atol=1e-3)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_int8_attention_at_the_border(name: str, dtype: str) -> None:
    model = block(dtype=dtype, attention_scale=0.03)
    x = RNG.normal(size=(2, 5, WIDTH)).astype(dtype)
    first, last = (w.astype(np.float64) for w in weights(model) if w.ndim == 2)

    def rounded(t: np.ndarray, scale: float) -> np.ndarray:
        return np.clip(np.rint(t / scale), -128, 127) * scale

    q, k, v = np.split(rounded(x.astype(np.float64) @ first, 0.03), 3, axis=-1)
    reference = rounded(attention_reference(heads(q), heads(k), heads(v)), 0.02) @ last + x
    got = open_engine(model, name, threads=1).run({"x": x})["y"]
    # A value beside a rounding border may fall to the other side: one step of 0.02 through a weight below 1.
    assert np.abs(got - reference).max() < 0.04
    assert np.abs(got - reference).mean() < 2e-3


@pytest.mark.parametrize("name", ENGINES)
def test_many_threads_get_their_own_answers(name: str) -> None:
    model = block(tokens=33)
    engine = open_engine(model, name, threads=1)
    xs = [RNG.normal(size=(1 + i % 3, 33, WIDTH)).astype(np.float32) for i in range(24)]
    alone = [engine.run({"x": x})["y"].copy() for x in xs]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda x: engine.run({"x": x})["y"], xs * 3))
    for got, want in zip(together, alone * 3, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", ENGINES)
def test_an_output_is_not_overwritten_by_the_next_call(name: str) -> None:
    engine = open_engine(block(), name, threads=1)
    first = engine.run({"x": np.ones((1, 5, WIDTH), np.float32)})["y"]
    before = first.copy()
    engine.run({"x": np.zeros((1, 5, WIDTH), np.float32)})
    np.testing.assert_array_equal(first, before)


@pytest.mark.parametrize("name", ENGINES)
def test_a_model_with_external_data_opens_by_path(name: str, tmp_path: Path) -> None:
    model = block()
    path = tmp_path / "model.onnx"
    onnx.save_model(
        onnx.load_model_from_string(model),
        str(path),
        save_as_external_data=True,
        location="w.bin",
        size_threshold=0,
    )
    x = RNG.normal(size=(1, 5, WIDTH)).astype(np.float32)
    got = open_engine(path, name, threads=1).run({"x": x})["y"]
    np.testing.assert_allclose(got, block_reference(model, x), atol=1e-5)


@pytest.mark.parametrize("name", ENGINES)
def test_a_model_too_large_for_protobuf_goes_through_a_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "_PROTOBUF_LIMIT", 1000)
    model = block()
    x = RNG.normal(size=(1, 5, WIDTH)).astype(np.float32)
    engine = open_engine(model, name, threads=1)
    np.testing.assert_allclose(engine.run({"x": x})["y"], block_reference(model, x), atol=1e-5)


@pytest.mark.parametrize("name", ENGINES)
def test_a_closed_engine_says_so(name: str) -> None:
    engine = open_engine(block(), name, threads=1)
    engine.close()
    engine.close()
    with pytest.raises(InputError, match=f"the {name} engine is closed; open it again"):
        engine.run({"x": np.zeros((1, 5, WIDTH), np.float32)})


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(VitcError, match=r"unknown CPU engine 'openvin'; known: .*did you mean 'openvino'"):
        open_engine(block(), "openvin")
    for threads in (0, 100_000, True, 1.5):
        with pytest.raises(InputError, match=rf"at least 1 thread and here at most \d+, got {threads}; None takes all"):
            open_engine(block(), threads=threads)  # type: ignore[arg-type]
    with pytest.raises(BuildError, match=r"nowhere\.onnx: not an ONNX model"):
        open_engine(tmp_path / "nowhere.onnx")
    with pytest.raises(BuildError, match="17 bytes: not an ONNX model"):
        open_engine(b"this is no model!")


@pytest.mark.parametrize(("name", "title"), [("onnxruntime", "ONNX Runtime"), ("openvino", "OpenVINO")])
def test_a_model_an_engine_does_not_take(name: str, title: str) -> None:
    g = Graph()
    model = onnx.load_model_from_string(g.model({"x": ["batch", 2]}, "x", ["batch", 2]))
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(BuildError, match=rf"{title} [\d.].* could not load the model: (.|\n)*NoSuchOperator"):
        open_engine(model.SerializeToString(), name)


def test_what_is_not_installed_stays_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    assert available() == {"onnxruntime": None, "openvino": None}
    monkeypatch.setattr(choose.importlib.util, "find_spec", lambda name: None if name == "openvino" else object())
    assert available() == {"onnxruntime": None, "openvino": "not installed: pip install openvino"}
    monkeypatch.setattr(choose, "int8_dot", lambda: "avx512_vnni")
    assert preferred() == "onnxruntime"
    monkeypatch.setattr(choose.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="none is installed: onnxruntime: not installed: pip install"):
        preferred()


@pytest.mark.parametrize("name", ENGINES)
def test_a_missing_engine_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=f"the CPU engine '{name}' needs the package '{name}'"):
        open_engine(block(), name)


def test_missing_onnx_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingDependencyError, match="running a model on the CPU needs the package 'onnx'"):
        open_engine(b"", "onnxruntime")


@pytest.mark.parametrize(
    ("machine", "dot", "first"),
    [
        ("x86_64", "avx512_vnni", "openvino"),
        ("x86_64", None, "onnxruntime"),
        ("aarch64", "asimddp", "onnxruntime"),
    ],
)
def test_the_preferred_engine_follows_the_processor(
    machine: str, dot: str | None, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose.platform, "machine", lambda: machine)
    monkeypatch.setattr(choose, "int8_dot", lambda: dot)
    assert preferred() == first


def test_ranking_measures_both() -> None:
    ranked = rank_engines(block(), {"x": np.zeros((1, 5, WIDTH), np.float32)}, threads=1, rounds=2)
    assert set(ranked) == set(ENGINES)
    assert list(ranked.values()) == sorted(ranked.values())
    assert all(0 < seconds < 1 for seconds in ranked.values())


def test_importing_it_imports_neither_torch_nor_onnx_nor_an_engine() -> None:
    heavy = ["torch", "onnx", "onnxruntime", "openvino"]
    code = f"import sys, vitc.lowering.cpu; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


_TWO_MODELS_END_AND_A_SIGNAL_COMES = """
import gc, os, signal, sys
sys.path.insert(0, {folder!r})
from small_models import block
from vitc.lowering.cpu import open_engine
first, second = open_engine(block(), {name!r}, threads=1), open_engine(block(), {name!r}, threads=1)
del first
gc.collect()
del second
gc.collect()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.mark.parametrize("name", ENGINES)
def test_signals_are_handled_after_engines_are_gone(name: str) -> None:
    script = _TWO_MODELS_END_AND_A_SIGNAL_COMES.format(folder=str(Path(__file__).parents[2] / "shared"), name=name)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "handled\n"
