"""The compiled model: callable here, saved for the device."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vitc.bundle import BundleContents, Dim, Golden, TensorInfo, Tolerance, VersionRange, write_bundle
from vitc.calibration.preprocessing import Preprocessing
from vitc.compiler.report import Report
from vitc.compiler.structure import bind, json_tree, rebuild
from vitc.errors import InputError
from vitc.graph.program import BatchRange, Program
from vitc.kernels.travel import plugin_files
from vitc.lowering.cpu import Engine, open_engine
from vitc.lowering.onnx.model import OnnxModel, TensorSpec, weight_bytes
from vitc.lowering.substitution import plugin_nodes
from vitc.runtime.feeds import as_array, check_finite, checked_option
from vitc.targets import Target

if TYPE_CHECKING:
    from vitc.bundle import Bundle
    from vitc.compiler.planning import Plan

#: How near the device's FP16/INT8 outputs must come to the golden ones.
_TOLERANCE = {"fp32": Tolerance(0.9999, 0.01), "fp16": Tolerance(0.999, 0.05), "int8": Tolerance(0.99, 0.15)}


@dataclass(frozen=True)
class CompiledModel:
    """Calls run the lowered graph on this machine's CPU engine, whatever the target; several threads may call at once.

    program: the graph after all passes.
    onnx: the ONNX model.
    engine: what stands behind calls.
    report: what happened: passes, sizes, decisions, times.
    check_inputs: "finite": NaN and infinite values in inputs are an InputError; "none": the model takes them.
    """

    program: Program
    onnx: OnnxModel
    engine: Engine
    report: Report
    _example: tuple[torch.Tensor, ...]
    check_inputs: str = "finite"

    @classmethod
    def from_plan(cls, plan: Plan) -> CompiledModel:
        """Opens this machine's engine for a plan."""
        engine = _open(plan.onnx)
        report = replace(plan.report, engine=_label(engine, plan.program.target))
        return cls(plan.program, plan.onnx, engine, report, plan.original.example_inputs)

    def on_engine(self, name: str) -> CompiledModel:
        """The same graph on the CPU engine of that name. Raises VitcError where it cannot serve."""
        engine = _open(self.onnx, name)
        return replace(self, engine=engine, report=replace(self.report, engine=_label(engine, self.program.target)))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the model returns, in the model's own structure; torch tensors, or NumPy arrays if all inputs are.

        Raises InputError for an unknown, missing or doubled input, a wrong shape, dtype or batch size, and for NaN or
        infinite values (see `with_check_inputs`).
        """
        bound = bind(self.program, args, kwargs)
        as_numpy = all(isinstance(v, np.ndarray) for v in bound.values())
        feeds = {s.name: _checked(s, bound[s.name], self.program.batch) for s in self.onnx.inputs}
        if checked_option(self.check_inputs):
            for name, array in feeds.items():
                check_finite(name, array)
        results = self.engine.run(feeds)
        arrays = [results[s.name] for s in self.onnx.outputs]
        return rebuild(self.program, arrays if as_numpy else [torch.from_numpy(a) for a in arrays])

    def with_check_inputs(self, check_inputs: str) -> CompiledModel:
        """A copy that refuses NaN and infinite values in its inputs, "finite" (the default), or takes them, "none"."""
        checked_option(check_inputs)
        return replace(self, check_inputs=check_inputs)

    def with_report(self, report: Report) -> CompiledModel:
        """A copy with another report."""
        return replace(self, report=report)

    def decided(self, text: str) -> CompiledModel:
        """A copy whose report has one more decision."""
        return self.with_report(replace(self.report, decisions=(*self.report.decisions, text)))

    def smallest_example(self) -> tuple[torch.Tensor, ...]:
        """The example inputs, as few images of them as the model takes."""
        batch = self.program.batch
        if batch is None:
            return self._example
        specs = zip(self.onnx.inputs, self._example, strict=True)
        return tuple(_resized(t, batch.min) if spec.shape[:1] == ("batch",) else t for spec, t in specs)

    def benchmark(self, batch: int = 1, rounds: int = 20) -> dict[str, float]:
        """Latency of a call here, in ms: the median, and the 90th and 99th percentile of `rounds`, after 2 warm-ups."""
        for name, value in (("batch", batch), ("rounds", rounds)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"a benchmark's {name} is a whole number from 1 on, got {value!r}")
        known = self.program.batch
        if known is not None and not known.min <= batch <= known.max:
            raise InputError(f"compiled for a batch of {known.min} to {known.max}, asked to time {batch}")
        inputs = [_resized(t, batch) for t in self._example]
        times = []
        for i in range(rounds + 2):
            started = time.perf_counter()
            self(*inputs)
            if i >= 2:
                times.append(1e3 * (time.perf_counter() - started))
        p50, p90, p99 = (float(v) for v in np.percentile(times, (50, 90, 99)))
        return {"p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "images_per_s": 1e3 * batch / p50}

    def save(self, path: str | Path, form: str = "folder") -> Bundle:
        """Writes the bundle for the device; `form` is 'folder' or 'file'. Returns it as read back and checked."""
        with tempfile.TemporaryDirectory(prefix="vitc-") as folder:
            model = Path(folder) / "model.onnx"
            self.onnx.save(model)
            data = model.with_name(f"{model.name}.data")
            external = {data.name: data} if data.exists() else {}
            return write_bundle(path, self._contents(model, external), form)  # type: ignore[arg-type]

    def _contents(self, model: Path, external: dict[str, Path]) -> BundleContents:
        target = self.program.target
        versions = None
        if target.tensorrt_min is not None and target.tensorrt_max is not None:
            versions = VersionRange(target.tensorrt_min, _next_major(target.tensorrt_max))
        precision = "int8" if self.program.stage == "quantized" else target.default_precision
        return BundleContents(
            model=model,
            pipeline=self.report.pipeline,
            target=target.to_dict(),
            inputs=tuple(_info(s, self.program.preprocessing) for s in self.onnx.inputs),
            outputs=tuple(_info(s) for s in self.onnx.outputs),
            structure=json_tree(self.program),
            dims={dim.name: Dim(dim.range.min, dim.range.max) for dim in self.program.dims.values()},
            external_data=external,
            tensorrt=versions,
            tolerance=_TOLERANCE[precision],
            golden=(self._golden(),),
            plugin=plugin_files(plugin_nodes(self.onnx.proto), target.arch) if target.arch is not None else {},
            calibration=self.program.findings.to_dict() or None,
            task=self.program.task,
        )

    def _golden(self) -> Golden:
        """The example's first image, and what the FX graph, not the engine, makes of it."""
        example = self.smallest_example()
        outputs = self.program.run(*example)
        return Golden(
            {s.name: t.numpy() for s, t in zip(self.onnx.inputs, example, strict=True)},
            {s.name: t.contiguous().numpy() for s, t in zip(self.onnx.outputs, outputs, strict=True)},
        )


def _label(engine: Engine, target: Target) -> str:
    label = f"{engine.name} {engine.version}" + (f" ({engine.remark})" if engine.remark else "")
    if target.kind != "cpu":
        label += f": the same graph here; the engine for {target.name} is built by the bundle's build.sh on the device"
    return label


def _open(model: OnnxModel, name: str = "auto") -> Engine:
    if weight_bytes(model.proto) < 2**30:
        return open_engine(model.proto.SerializeToString(), name)
    with tempfile.TemporaryDirectory(prefix="vitc-") as folder:
        path = Path(folder) / "model.onnx"
        model.save(path)
        return open_engine(path, name)


def _checked(spec: TensorSpec, value: Any, batch: BatchRange | None) -> np.ndarray[Any, Any]:
    """The value as a C-ordered array, if it is what the input takes."""
    if not isinstance(value, (torch.Tensor, np.ndarray)):
        raise InputError(f"input {spec.name!r} must be a torch tensor or NumPy array, got {type(value).__name__}")
    array = as_array(spec.name, value)
    shape = "[" + ", ".join(map(str, spec.shape)) + "]"
    wanted = str(spec.dtype).removeprefix("torch.")
    if array.dtype.name != wanted:
        raise InputError(
            f"input {spec.name!r} has dtype {array.dtype.name}, the model takes {wanted}; convert it first"
        )
    fits = len(array.shape) == len(spec.shape) and all(
        isinstance(want, str) or want == got for want, got in zip(spec.shape, array.shape, strict=True)
    )
    if not fits:
        raise InputError(f"input {spec.name!r} has shape {list(array.shape)}, the model takes {shape}")
    if batch is not None and spec.shape[:1] == ("batch",) and not batch.min <= array.shape[0] <= batch.max:
        raise InputError(
            f"input {spec.name!r} has batch size {array.shape[0]}, compiled for {batch.min} to {batch.max}; "
            "compile with batch=vitc.BatchRange(min, max) for another range"
        )
    return np.asarray(array, order="C")  # ascontiguousarray makes a row of a scalar


def _resized(tensor: torch.Tensor, batch: int) -> torch.Tensor:
    repeats = -(-batch // tensor.shape[0])
    return tensor.repeat(repeats, *[1] * (tensor.ndim - 1))[:batch]


def _info(spec: TensorSpec, preprocessing: Preprocessing | None = None) -> TensorInfo:
    known = preprocessing.to_dict() if preprocessing is not None and len(spec.shape) == 4 else None
    return TensorInfo(spec.name, str(spec.dtype).removeprefix("torch."), spec.shape, known)


def _next_major(version: str) -> str:
    """The first version beyond an inclusive upper end: 10.16 → 10.17."""
    parts = version.split(".")
    return ".".join([*parts[:-1], str(int(parts[-1]) + 1)])
