"""A bundle, loaded on an engine of this machine, and called."""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from vitc.bundle import Bundle, read_bundle, rebuild, verify
from vitc.errors import BuildError, BundleError, InputError, MissingDependencyError, unknown
from vitc.lowering import cpu
from vitc.lowering.cpu.engine import Array
from vitc.runtime.bench import BenchReport, time_engine
from vitc.runtime.builder import load_built
from vitc.runtime.check import CheckReport, compare
from vitc.runtime.feeds import bind, check_finite, checked_option

ENGINES = ("auto", "cpu", *cpu.ENGINES, cpu.NATIVE, "tensorrt")


class Fields(dict[str, Any]):
    """The fields of a dataclass the model returned: `outputs.logits`, or `outputs["logits"]`."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(f"the model's output has no field {name!r}; it has: {', '.join(self)}")
        return self[name]


class Runner:
    """A loaded model. Calls are safe from several threads at once.

    `bundle` is what was loaded, `engine` what runs it, `reason` why it is this engine.
    """

    def __init__(self, bundle: Bundle, engine: cpu.Engine, reason: str, check_inputs: str = "finite") -> None:
        self._finite = checked_option(check_inputs)
        self.bundle = bundle
        self.engine = engine
        self.reason = reason

    def __call__(self, /, *arrays: Any, **named: Any) -> Any:
        """Arrays in the order of the inputs, or by name; the outputs come in the model's own structure, as
        NumPy arrays, or as torch tensors if all inputs are. A dataclass comes back as `Fields`: its class may not
        be here.

        Raises InputError for an unknown, missing or doubled input, a wrong dtype or shape: no silent
        conversion; and for NaN or infinite values, naming the image, unless loaded with check_inputs="none".
        """
        outputs: dict[str, Any] = dict(self.run(*arrays, **named))
        given = [*arrays, *named.values()]
        if given and all(type(value).__module__.split(".")[0] == "torch" for value in given):
            # Whoever holds tensors has torch already: it is not imported here.
            outputs = {name: sys.modules["torch"].from_numpy(array) for name, array in outputs.items()}
        return rebuild(self.bundle.manifest.structure, outputs, lambda _type, fields: Fields(fields))

    def run(self, /, *arrays: Any, **named: Any) -> dict[str, Array]:
        """As a call, with the outputs by name, in no other structure."""
        manifest = self.bundle.manifest
        feeds = bind(manifest.inputs, manifest.dims, arrays, named)
        if self._finite:
            for name, array in feeds.items():
                check_finite(name, array)
        return self.engine.run(feeds)

    def self_check(self) -> CheckReport:
        """Runs the bundle's golden inputs and compares with its golden outputs, within the bundle's
        tolerance.

        Raises BundleError where the bundle holds no golden pair.
        """
        if not self.bundle.manifest.golden:
            raise BundleError(
                f"the bundle {self.bundle.path} holds no golden outputs: there is nothing to check against"
            )
        rows = []
        for number, pair in enumerate(self.bundle.golden()):
            outputs = self.run(**pair.inputs)
            rows += [
                compare(number, name, outputs[name], golden, self.bundle.manifest.tolerance)
                for name, golden in pair.outputs.items()
            ]
        label = f"{self.engine.name} {self.engine.version}"
        return CheckReport(label, self.bundle.manifest.tolerance, tuple(rows))

    def benchmark(self, batch: int | None = None, rounds: int = 50, warmup: int = 5) -> BenchReport:
        """Latency percentiles of `rounds` calls after `warmup`, and, on a Jetson, the power rails meanwhile.

        `batch` sets the dynamic dimension `batch`; None: the smallest the bundle allows.
        """
        return time_engine(self.bundle, self.engine, batch, rounds, warmup)

    def close(self) -> None:
        """Lets go of the engine's memory."""
        self.engine.close()

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load(
    path: Path | str,
    engine: str = "auto",
    threads: int | None = None,
    verify_key: Path | str | None = None,
    check_inputs: str = "finite",
) -> Runner:
    """Reads and checks the bundle at `path` and opens it on an engine.

    engine:       `tensorrt` (built before, with `build`), `onnxruntime`, `openvino`, `native`, `cpu` (the fastest of
                  these three on this processor), or `auto`: TensorRT where an engine for this machine was built, else
                  the CPU.
    threads:      of a CPU engine; None: all cores.
    verify_key:   minisign's public key, a file or the key itself: only a bundle signed with it is loaded.
    check_inputs: "finite": NaN and infinite values in a call's inputs are an InputError that names the image; "none":
                  the model takes them.

    Raises BundleError for what is not a bundle, is damaged, or is not signed with `verify_key`; InputError for an
    unknown engine; BuildError where no TensorRT engine was built for this bundle, or it is another version's;
    MissingDependencyError where the engine is not installed.
    """
    if engine not in ENGINES:
        raise InputError(unknown("engine", str(engine), ENGINES))
    checked_option(check_inputs)
    bundle = read_bundle(path)
    if verify_key is not None:
        verify(bundle, verify_key)
    opened, reason = _opened(bundle, engine, threads)
    return Runner(bundle, opened, reason, check_inputs)


def _opened(bundle: Bundle, engine: str, threads: int | None) -> tuple[cpu.Engine, str]:
    """The engine, and why it is this one."""
    if engine == "tensorrt":
        return load_built(bundle), "asked for"
    if engine != "auto":
        return _on_cpu(bundle, "auto" if engine == "cpu" else engine, threads, "asked for")
    try:
        return load_built(bundle), f"an engine for this machine lies in {bundle.work}"
    except (BuildError, MissingDependencyError) as error:
        return _on_cpu(bundle, "auto", threads, f"no TensorRT engine here: {error}")


def _check_ports(bundle: Bundle, engine: cpu.Engine) -> None:
    """BundleError where the manifest and the model do not name the same inputs and outputs."""
    manifest = bundle.manifest
    for kind, infos, ports in (("input", manifest.inputs, engine.inputs), ("output", manifest.outputs, engine.outputs)):
        stated = {info.name: (info.dtype, len(info.shape)) for info in infos}
        found = {port.name: (port.dtype, len(port.shape)) for port in ports}
        # A model may leave an output's shape open.
        different = [
            name
            for name in stated.keys() | found.keys()
            if stated.get(name) != found.get(name) and not _is_open(stated.get(name), found.get(name))
        ]
        if different:
            raise BundleError(
                f"{bundle.path}: the manifest has the {kind}s {stated}, the model has {found}: "
                "they are not of one another; compile the model again"
            )
        for info, port in ((i, p) for i in infos for p in ports if i.name == p.name):
            for wanted, got in zip(info.shape, port.shape, strict=False):
                if isinstance(wanted, int) and isinstance(got, int) and wanted != got:
                    raise BundleError(
                        f"{bundle.path}: the manifest gives the {kind} {info.name!r} the shape {list(info.shape)}, the "
                        f"model {list(port.shape)}: they are not of one another; compile the model again"
                    )


def _is_open(stated: tuple[str, int] | None, found: tuple[str, int] | None) -> bool:
    return stated is not None and found is not None and stated[0] == found[0] and found[1] == 0


def _on_cpu(bundle: Bundle, engine: str, threads: int | None, reason: str) -> tuple[cpu.Engine, str]:
    # The bytes whose hashes were right, not what lies there by now.
    opened = cpu.open_engine(bundle.read(bundle.manifest.model), engine, threads, bundle.read)
    try:
        _check_ports(bundle, opened)
    except BundleError:
        opened.close()
        raise
    return opened, f"{reason}; {opened.remark}" if opened.remark else reason
