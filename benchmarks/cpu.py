"""vitc on a CPU against its peers: FP32 and INT8, latency, agreement, preparation time and memory, in one run.

    pip install -e '.[demo,bench]'
    python benchmarks/cpu.py                                    ViT-B/16 at 224, batch 1 and 8
    python benchmarks/cpu.py --model vit_base_patch16_384 --batch 1 --only vitc openvino
    python benchmarks/cpu.py --output benchmarks/results/cpu-NAME.md

Every contender lives in a process of its own, so that no thread pool disturbs another, and all take turns: a round
goes through them forwards, the next backwards. Compare by CPU time, and only within one run: other work on the machine
lengthens the wall time of all. The weights are random; the images are photographs (scikit-image), half of them for
calibration, half for the agreement with eager PyTorch.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
from machine import stamp

from vitc.frontend.torchvision_import import ensure_torchvision_imports

Array = npt.NDArray[np.float32]
Run = Callable[[Array], Array]
IMAGES = 32
VERSIONS = ("torch", "onnxruntime", "openvino", "nncf", "timm")


def _model(name: str) -> Any:
    import timm
    import torch

    torch.manual_seed(0)
    return timm.create_model(name).eval()


def _onnx(name: str, folder: str, size: int) -> str:
    """What torch.onnx exports: the way to ONNX Runtime and OpenVINO without vitc."""
    import torch

    path = str(Path(folder) / "peer.onnx")
    example = torch.rand(2, 3, size, size)
    shapes = ({0: torch.export.Dim("batch", min=1, max=64)},)
    # One file: ONNX Runtime's quantization tools copy the model and lose sight of weights beside it.
    torch.onnx.export(
        _model(name), (example,), path, dynamo=True, dynamic_shapes=shapes, verbose=False, external_data=False
    )
    return path


def torch_eager(name: str, images: Array, threads: int, folder: str) -> Run:
    import torch

    model = _model(name)
    del images, threads, folder

    def run(x: Array) -> Array:
        with torch.inference_mode():
            return model(torch.from_numpy(x)).numpy()  # type: ignore[no-any-return]

    return run


def torch_compile(name: str, images: Array, threads: int, folder: str) -> Run:
    import torch
    import torch._inductor.config

    torch._inductor.config.freezing = True  # type: ignore[attr-defined]
    model = torch.compile(_model(name))
    del images, threads, folder

    def run(x: Array) -> Array:
        with torch.no_grad():
            return model(torch.from_numpy(x)).numpy()  # type: ignore[no-any-return]

    return run


def _ort(path: str, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options)
    feed = session.get_inputs()[0].name
    return lambda x: session.run(None, {feed: x})[0]  # type: ignore[no-any-return]


def ort_fp32(name: str, images: Array, threads: int, folder: str) -> Run:
    return _ort(_onnx(name, folder, images.shape[-1]), threads)


def ort_dynamic(name: str, images: Array, threads: int, folder: str) -> Run:
    from onnxruntime.quantization import quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(_onnx(name, folder, images.shape[-1]), f"{folder}/ready.onnx", skip_symbolic_shape=True)
    quantize_dynamic(
        f"{folder}/ready.onnx", f"{folder}/int8.onnx", op_types_to_quantize=["MatMul", "Gemm"], per_channel=True
    )
    return _ort(f"{folder}/int8.onnx", threads)


def ort_static(name: str, images: Array, threads: int, folder: str) -> Run:
    """U8S8, MatMul and Gemm with constant weights only: quantizing every operator is slower and wrong."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(_onnx(name, folder, images.shape[-1]), f"{folder}/ready.onnx", skip_symbolic_shape=True)
    graph = onnx.load(f"{folder}/ready.onnx").graph
    weights = {tensor.name for tensor in graph.initializer}
    nodes = [n.name for n in graph.node if n.op_type in ("MatMul", "Gemm") and n.input[1] in weights]
    feed = graph.input[0].name

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        left = iter(images)

        def get_next(self) -> dict[str, Array] | None:
            image = next(self.left, None)
            return None if image is None else {feed: image[None]}

    quantize_static(
        f"{folder}/ready.onnx", f"{folder}/int8.onnx", Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, nodes_to_quantize=nodes,
    )  # fmt: skip
    return _ort(f"{folder}/int8.onnx", threads)


def _openvino(network: Any, threads: int, **config: str) -> Run:
    import openvino

    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": str(threads), **config}
    request = openvino.Core().compile_model(network, "CPU", config).create_infer_request()
    return lambda x: np.array(request.infer([x], share_inputs=True)[0])


def _converted(name: str, size: int) -> Any:
    import openvino
    import torch

    network = openvino.convert_model(_model(name), example_input=torch.rand(2, 3, size, size))
    network.reshape([-1, 3, size, size])
    return network


def _nncf(name: str, images: Array) -> Any:
    import nncf

    data = nncf.Dataset([image[None] for image in images])
    return nncf.quantize(
        _converted(name, images.shape[-1]), data, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(images)
    )


def openvino_fp32(name: str, images: Array, threads: int, folder: str) -> Run:
    del folder
    return _openvino(_converted(name, images.shape[-1]), threads, INFERENCE_PRECISION_HINT="f32")


def openvino_default(name: str, images: Array, threads: int, folder: str) -> Run:
    """BF16 where the processor has it, without being asked."""
    del folder
    return _openvino(_converted(name, images.shape[-1]), threads)


def openvino_nncf(name: str, images: Array, threads: int, folder: str) -> Run:
    del folder
    return _openvino(_nncf(name, images), threads, INFERENCE_PRECISION_HINT="f32")


def openvino_nncf_default(name: str, images: Array, threads: int, folder: str) -> Run:
    """What is not INT8 is BF16 where the processor has it."""
    del folder
    return _openvino(_nncf(name, images), threads)


def _vitc(name: str, images: Array, int8: bool) -> Run:
    import torch

    import vitc

    compiled = vitc.compile(
        _model(name), "cpu", calibration=torch.from_numpy(images) if int8 else None, quantize="int8" if int8 else None
    )
    return lambda x: compiled(torch.from_numpy(x)).numpy()  # type: ignore[no-any-return]


def vitc_fp32(name: str, images: Array, threads: int, folder: str) -> Run:
    del threads, folder
    return _vitc(name, images, int8=False)


def vitc_int8(name: str, images: Array, threads: int, folder: str) -> Run:
    del threads, folder
    return _vitc(name, images, int8=True)


#: Label → how it is made. The first is what all agree with.
CONTENDERS: dict[str, Callable[[str, Array, int, str], Run]] = {
    "torch eager fp32": torch_eager,
    "torch.compile fp32, frozen": torch_compile,
    "onnxruntime fp32": ort_fp32,
    "openvino fp32": openvino_fp32,
    "vitc fp32": vitc_fp32,
    "openvino default precision": openvino_default,
    "onnxruntime int8 dynamic": ort_dynamic,
    "onnxruntime int8 static, linears": ort_static,
    "openvino int8 (NNCF), rest fp32": openvino_nncf,
    "openvino int8 (NNCF), default": openvino_nncf_default,
    "vitc int8": vitc_int8,
}


def photographs(model: str, count: int) -> Array:
    import timm

    from vitc.demo.__main__ import photographs as photos

    size = timm.get_pretrained_cfg(model).input_size[-1]
    return np.ascontiguousarray(photos(count, size).numpy())


def work(label: str, model: str, threads: int, count: int) -> None:
    """A contender's process: makes itself ready, then answers a line {"batch", "rounds"} with its times."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to stderr
    ensure_torchvision_imports()
    images = photographs(model, count)
    half = count // 2
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = CONTENDERS[label](model, images[:half], threads, folder)
        logits = np.concatenate([run(images[i : i + 4]) for i in range(half, count, 4)])
    ready = {"seconds": time.perf_counter() - began, "logits": logits.tolist()}
    print(json.dumps(ready), file=answer, flush=True)
    for line in sys.stdin:
        x = images[: json.loads(line)["batch"]]
        run(x)
        cpu, wall = time.process_time(), time.perf_counter()
        run(x)
        times = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        times["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(times), file=answer, flush=True)


class Worker:
    """A contender's process, as its parent sees it."""

    def __init__(self, label: str, model: str, threads: int, images: int) -> None:
        self.label = label
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
        command = [sys.executable, __file__, "--model", model, "--threads", str(threads), "--images", str(images)]
        command += ["--work", label]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )
        ready = self._read()
        self.seconds: float = ready["seconds"]
        self.logits = np.array(ready["logits"])

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"{self.label}: the process ended with code {self.process.wait()}; its own message stands above"
            )
        return json.loads(line)  # type: ignore[no-any-return]

    def once(self, batch: int) -> dict[str, float]:
        assert self.process.stdin is not None
        print(json.dumps({"batch": batch}), file=self.process.stdin, flush=True)
        return self._read()

    def close(self) -> None:
        self.process.communicate()


def header(title: str, script: str, threads: int, rounds: int, images: int) -> str:
    return (
        f"# {title} on a CPU\n\n{stamp(script, *VERSIONS)} {threads} threads, {rounds} rounds.\n\n"
        "CPU: median CPU time / threads, ms an image. Wall: shortest, ms an image. "
        "Ratio: by CPU time, over eager FP32. "
        f"rel: L2 error of the logits relative to eager; top-1: agreement over {images // 2} photographs."
    )


def table(
    workers: list[Worker], times: dict[tuple[str, int], list[dict[str, float]]], batches: list[int], threads: int
) -> str:
    first = workers[0]
    titles = [f"b{b}: {what}" for b in batches for what in ("CPU", "wall", "ratio")]
    lines = ["| contender | " + " | ".join(titles) + " | cos | rel | top-1 | peak MB | ready s |"]
    lines.append("|---" * (len(titles) + 6) + "|")

    def cpu(label: str, batch: int) -> float:
        return 1e3 * median(t["cpu"] for t in times[label, batch]) / threads / batch

    for worker in workers:
        cells = [worker.label]
        for batch in batches:
            wall = 1e3 * min(t["wall"] for t in times[worker.label, batch]) / batch
            own = cpu(worker.label, batch)
            cells += [f"{own:.1f}", f"{wall:.1f}", f"{cpu(first.label, batch) / own:.2f}×"]
        want, got = first.logits, worker.logits
        norm = np.linalg.norm
        cells += [f"{(want * got).sum() / norm(want) / norm(got):.5f}", f"{norm(want - got) / norm(want):.4f}"]
        cells += [f"{(want.argmax(1) == got.argmax(1)).mean():.2f}"]
        cells += [f"{times[worker.label, batches[-1]][-1]['peak_mb']:.0f}", f"{worker.seconds:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="vitc on a CPU against its peers")
    parser.add_argument("--model", default="vit_base_patch16_224", help="a timm name")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--images", type=int, default=IMAGES, help="photographs: half calibrate, half are compared")
    parser.add_argument("--only", nargs="+", default=[], help="beginnings of contenders' names; eager is always there")
    parser.add_argument("--output", type=Path, help="a file for the table, besides the terminal")
    parser.add_argument("--work", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.work, args.model, args.threads, args.images)
        return
    labels = [x for i, x in enumerate(CONTENDERS) if i == 0 or not args.only or x.startswith(tuple(args.only))]
    workers, missing = [], []
    for label in labels:
        try:
            workers.append(Worker(label, args.model, args.threads, args.images))
        except RuntimeError as error:
            if not workers:
                raise  # nothing to agree with
            missing.append(label)
            print(error, file=sys.stderr)
            continue
        print(f"{label}: ready after {workers[-1].seconds:.0f} s", file=sys.stderr)
    times: dict[tuple[str, int], list[dict[str, float]]] = {(w.label, b): [] for w in workers for b in args.batch}
    for turn in range(args.rounds):
        for batch in args.batch:
            for worker in workers[:: 1 if turn % 2 == 0 else -1]:
                times[worker.label, batch].append(worker.once(batch))
        print(f"round {turn + 1} of {args.rounds}", file=sys.stderr)
    head = header(args.model, "cpu.py", args.threads, args.rounds, args.images)
    text = f"{head}\n\n{table(workers, times, args.batch, args.threads)}\n"
    if missing:
        text += f"\nLeft out, because they failed here: {', '.join(missing)}.\n"
    for worker in workers:
        worker.close()
    print(text)
    if args.output:
        args.output.write_text(text)


if __name__ == "__main__":
    main()
