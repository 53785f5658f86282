"""The lint on a ViT quantized by ModelOpt, NNCF and ONNX Runtime: what it predicts and what TensorRT-RTX makes of it.

    python benchmarks/lint_foreign.py [--depth 2] [--keep FOLDER]

A small timm ViT with random weights (placement does not depend on them), exported by torch, quantized by the tools as
they come out of the box. Engines are built for SM86, on the CPU, and not run. Needs vitc[rtx,zoo,bench] and
nvidia-modelopt.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import logging
import platform
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from vitc.errors import BuildError
from vitc.frontend.torchvision_import import ensure_torchvision_imports
from vitc.lowering.lint import LintReport, compare, lint
from vitc.lowering.tensorrt import build_engine

ensure_torchvision_imports()

import timm  # noqa: E402

RTX = "tensorrt-rtx 1.7"
SIZE = 64


def vit(depth: int) -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", depth=depth, img_size=SIZE, pretrained=False).eval()


def export(model: torch.nn.Module, path: Path, **options: Any) -> Path:
    names: dict[str, Any] = {"input_names": ["x"], "output_names": ["y"]}
    example = torch.zeros(1, 3, SIZE, SIZE)
    torch.onnx.export(model, (example,), str(path), opset_version=17, dynamo=False, **names, **options)
    return path


class Reader:
    """Calibration data as ONNX Runtime's tools want it."""

    def __init__(self, images: np.ndarray[Any, Any]) -> None:
        self._images: Iterator[dict[str, Any]] = iter([{"x": image[None]} for image in images])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._images, None)


def modelopt(config: str) -> Callable[[Path, torch.nn.Module, torch.Tensor], Path]:
    def quantized(folder: Path, model: torch.nn.Module, images: torch.Tensor) -> Path:
        import modelopt.torch.quantization as mtq

        # A list: mtq calls this once, with the model to calibrate.
        quantized = mtq.quantize(model, getattr(mtq, config), lambda m: [m(image[None]) for image in images])
        return export(quantized, folder / f"modelopt_{config}.onnx")

    return quantized


def nncf(**options: str) -> Callable[[Path, torch.nn.Module, torch.Tensor], Path]:
    def quantized(folder: Path, model: torch.nn.Module, images: torch.Tensor) -> Path:
        import nncf

        proto = onnx.load(str(export(model, folder / "nncf_float.onnx")))
        data = nncf.Dataset([{"x": image[None].numpy()} for image in images])
        given = {"model_type": nncf.ModelType.TRANSFORMER} if options.get("model_type") else {}
        onnx.save(nncf.quantize(proto, data, subset_size=len(images), **given), str(folder / "nncf.onnx"))
        return folder / "nncf.onnx"

    return quantized


def ort(**options: Any) -> Callable[[Path, torch.nn.Module, torch.Tensor], Path]:
    def quantized(folder: Path, model: torch.nn.Module, images: torch.Tensor) -> Path:
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        given = dict(options)
        if given.pop("signed", False):
            given |= {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8, "per_channel": True}
            symmetric = {"ActivationSymmetric": True, "WeightSymmetric": True}
            given["extra_options"] = symmetric | given.get("extra_options", {})
        form = QuantFormat.QOperator if given.pop("operators", False) else QuantFormat.QDQ
        ready = folder / "ort_ready.onnx"
        quant_pre_process(str(export(model, folder / "ort_float.onnx")), str(ready), skip_symbolic_shape=True)
        quantize_static(str(ready), str(folder / "ort.onnx"), Reader(images.numpy()), quant_format=form, **given)
        return folder / "ort.onnx"

    return quantized


def as_it_is(folder: Path, model: torch.nn.Module, _: torch.Tensor) -> Path:
    return export(model, folder / "float.onnx")


CONTENDERS: dict[str, Callable[[Path, torch.nn.Module, torch.Tensor], Path]] = {
    "not quantized": as_it_is,
    "ModelOpt INT8_DEFAULT_CFG": modelopt("INT8_DEFAULT_CFG"),
    "ModelOpt INT8_SMOOTHQUANT_CFG": modelopt("INT8_SMOOTHQUANT_CFG"),
    "NNCF, defaults": nncf(),
    "NNCF, model_type=TRANSFORMER": nncf(model_type="transformer"),
    "ORT static, defaults": ort(),
    "ORT static, signed, symmetric": ort(signed=True),
    "ORT static, as TensorRT asks": ort(
        signed=True,
        op_types_to_quantize=["MatMul", "Gemm", "Conv"],
        extra_options={"AddQDQPairToWeight": True, "QuantizeBias": False},
    ),
    "ORT static, QOperator": ort(operators=True),
}


def row(name: str, path: Path) -> str:
    report = lint(path, "rtx-3090", engine=RTX)
    predicted = "refused" if report.refused else _counts(report.summary())
    try:
        layers = build_engine(path, capability="SM86").layers
    except BuildError:
        agrees = "yes" if report.refused else "**no**"
        return f"| {name} | {predicted} | refused | {agrees} | {_problems(report)} |"
    agreement = compare(report, layers)
    agrees = (
        f"{agreement.checked - len(agreement.differences)} of {agreement.checked} nodes"
        if not report.refused
        else "**no**"
    )
    kinds = {kind: count for kind, count in layers.summary().items() if kind not in ("other", "normalization")}
    return f"| {name} | {predicted} | {_counts(kinds)} | {agrees} | {_problems(report)} |"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


def _problems(report: LintReport) -> str:
    found: dict[str, int] = {}
    for verdict in report.errors:
        found[verdict.rule.id] = found.get(verdict.rule.id, 0) + 1
    return ", ".join(f"{count} {rule}" for rule, count in found.items()) or "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="a folder for the ONNX files")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    packages = ("nvidia-modelopt", "nncf", "onnxruntime", "torch", "timm", "tensorrt_rtx", "vitc")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    print(
        f"`python benchmarks/lint_foreign.py`, {datetime.date.today()}; {versions}; Python {platform.python_version()}."
    )
    print(f"vit_tiny_patch16_224 at {SIZE} pixels, {arguments.depth} blocks, random weights.\n")
    print(
        "| quantized by | predicted for TensorRT-RTX 1.7 | in its layer log, SM86 | agree | errors"
        " |\n|---|---|---|---|---|"
    )
    images = torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    for name, quantize in CONTENDERS.items():
        with tempfile.TemporaryDirectory() as temporary:
            folder = arguments.keep / name if arguments.keep else Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            print(row(name, quantize(folder, vit(arguments.depth), images)), flush=True)


if __name__ == "__main__":
    sys.exit(main())
