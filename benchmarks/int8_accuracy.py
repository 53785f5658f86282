"""INT8 accuracy beside the peers: trained models, the same calibration images, one table.

    pip install -e '.[demo,bench]'
    python benchmarks/int8_accuracy.py > benchmarks/results/int8_accuracy.md

Every contender quantizes the same trained FP32 model (benchmarks/tasks.py) with the same images and answers the same
test images, which neither has seen. SQNR is 10·log10(‖y‖² / ‖y − ŷ‖²) of the outputs against FP32, agreement the share
of test images (pixels, for segments) with the same class as FP32, score the task's own metric.

"planted" models compute the same function as the digits model, rescaled by a seeded script: outlier channels between
LayerNorms and linears, and heavy tails in q, k and v.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tasks
import torch
from machine import stamp
from torch import Tensor, nn

import vitc
from vitc.pipeline.default import CANONICAL

Predict = Callable[[Tensor], Tensor]
Quantize = Callable[[nn.Module, Tensor], Predict]
MINMAX = "calibrator=minmax,correct_bias=false"


@torch.no_grad()
def plant_outliers(model: nn.Module, seed: int = 0) -> nn.Module:
    """Three channels of each LayerNorm 30 to 100 times larger, the weights that read them smaller: the same
    function."""
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    for block in model.blocks:  # type: ignore[union-attr]
        for norm, linear in ((block.norm1, block.attn.qkv), (block.norm2, next(block.mlp.children()))):
            factor = torch.ones_like(norm.weight)
            factor[torch.randperm(len(factor), generator=generator)[:3]] = torch.tensor([30.0, 60.0, 100.0])
            norm.weight.mul_(factor), norm.bias.mul_(factor), linear.weight.div_(factor)
    return model


@torch.no_grad()
def plant_heavy_tails(model: nn.Module, seed: int = 0) -> nn.Module:
    """Log-normal factors (σ = 1.5) on the channels of q, their inverses on k; others on v, their inverses in the
    projection: attention with heavy tails, the same function."""
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    for block in model.blocks:  # type: ignore[union-attr]
        width = block.attn.qkv.in_features
        scores, values = (torch.exp(1.5 * torch.randn(width, generator=generator)) for _ in range(2))
        factor = torch.cat([scores, 1 / scores, values])
        block.attn.qkv.weight.mul_(factor[:, None]), block.attn.qkv.bias.mul_(factor)
        block.attn.proj.weight.div_(values)
    return model


def fp32(model: nn.Module, _: Tensor) -> Predict:
    return model


def by_vitc(target: str, pipeline: str | None = None) -> Quantize:
    """The graph after all passes, run by torch: integers as on the device, attention by the kernel's own arithmetic."""

    def quantize(model: nn.Module, images: Tensor) -> Predict:
        text = None if pipeline is None else ",".join([*CANONICAL, "tile-attention", pipeline])
        plan = vitc.plan(model, target, example_inputs=images[:2], calibration=images, quantize="int8", pipeline=text)
        return plan.program.module

    return quantize


def by_modelopt(config: str) -> Quantize:
    def quantize(model: nn.Module, images: Tensor) -> Predict:
        import modelopt.torch.quantization as mtq

        def feed(quantized: nn.Module) -> None:
            for batch in images.split(16):
                quantized(batch)

        return mtq.quantize(copy.deepcopy(model), getattr(mtq, config), feed)  # type: ignore[no-any-return]

    return quantize


def by_nncf(smooth: bool) -> Quantize:
    def quantize(model: nn.Module, images: Tensor) -> Predict:
        import nncf
        import openvino
        from nncf.quantization.advanced_parameters import (
            AdvancedQuantizationParameters,
            AdvancedSmoothQuantParameters,
        )

        network = openvino.convert_model(model, example_input=images[:2])
        dataset = nncf.Dataset([image[None].numpy() for image in images])
        # −1 switches SmoothQuant off; on, its own default of α = 0.95 for linears.
        alphas = AdvancedSmoothQuantParameters() if smooth else AdvancedSmoothQuantParameters(matmul=-1)
        quantized = nncf.quantize(
            network, dataset, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(images),
            advanced_parameters=AdvancedQuantizationParameters(smooth_quant_alphas=alphas),
        )  # fmt: skip
        compiled = openvino.Core().compile_model(quantized, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return lambda x: torch.from_numpy(compiled([x.numpy()])[0].copy())

    return quantize


def by_onnxruntime(linears_only: bool) -> Quantize:
    def quantize(model: nn.Module, images: Tensor) -> Predict:
        import onnxruntime
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                self.batches: Iterator[Tensor] = iter(images.split(16))

            def get_next(self) -> dict[str, Any] | None:
                batch = next(self.batches, None)
                return None if batch is None else {"x": batch.numpy()}

        with tempfile.TemporaryDirectory() as folder:
            exported, prepared, quantized = (Path(folder) / name for name in ("a.onnx", "b.onnx", "c.onnx"))
            batch = torch.export.Dim("batch", min=1, max=64)
            torch.onnx.export(
                model,
                (images[:2],),
                exported,
                input_names=["x"],
                dynamic_shapes=({0: batch},),
                dynamo=True,
                verbose=False,
            )
            quant_pre_process(exported, prepared)
            quantize_static(
                prepared, quantized, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                op_types_to_quantize=["MatMul", "Gemm"] if linears_only else None,
            )  # fmt: skip
            session = onnxruntime.InferenceSession(quantized.read_bytes())
        return lambda x: torch.from_numpy(session.run(None, {"x": x.numpy()})[0])

    return quantize


CONTENDERS: dict[str, Quantize] = {
    "FP32": fp32,
    "**vitc**, linears": by_vitc("cpu", "smooth-activations{attention=false},quantize-int8{attention=false}"),
    "**vitc**, linears and attention (orin's default)": by_vitc("orin"),
    "**vitc**, linears, GPTQ": by_vitc(
        "cpu", "smooth-activations{attention=false},quantize-int8{attention=false,rounding=gptq}"
    ),
    "**vitc**, linears and attention, GPTQ": by_vitc("orin", "smooth-activations,quantize-int8{rounding=gptq}"),
    "**vitc**, linears, AdaRound": by_vitc(
        "cpu", "smooth-activations{attention=false},quantize-int8{attention=false,rounding=adaround}"
    ),
    "**vitc**, linears and attention, AdaRound": by_vitc("orin", "smooth-activations,quantize-int8{rounding=adaround}"),
    "plain minmax, linears": by_vitc("cpu", f"quantize-int8{{{MINMAX},attention=false}}"),
    "plain minmax, linears and attention": by_vitc("orin", f"quantize-int8{{{MINMAX}}}"),
    "NNCF, transformer": by_nncf(smooth=False),
    "NNCF, transformer, SmoothQuant": by_nncf(smooth=True),
    "ONNX Runtime static, linears": by_onnxruntime(linears_only=True),
    "ONNX Runtime static, default operators": by_onnxruntime(linears_only=False),
    "ModelOpt INT8 default": by_modelopt("INT8_DEFAULT_CFG"),
    "ModelOpt INT8 SmoothQuant": by_modelopt("INT8_SMOOTHQUANT_CFG"),
}
PLANTED = ("FP32", "**vitc**, linears", "**vitc**, linears and attention (orin's default)")
PLANTED += (
    "plain minmax, linears",
    "plain minmax, linears and attention",
    "NNCF, transformer, SmoothQuant",
    "ModelOpt INT8 SmoothQuant",
)


def compared(predict: Predict, task: tasks.Task) -> tuple[float, float, float]:
    """SQNR of the outputs for the test images in dB, agreement with FP32 and score."""
    with torch.no_grad():
        want, got = (torch.cat([p(x) for x in task.test[0].split(50)]).float() for p in (task.model, predict))
    noise = float((want.double() - got.double()).square().sum())
    sqnr = 10 * float(torch.log10(want.double().square().sum() / noise)) if noise else float("inf")
    answers = iter(got.split(50))
    return sqnr, float((want.argmax(1) == got.argmax(1)).float().mean()), task.metric(lambda _: next(answers))


def row(name: str, model: nn.Module, task: tasks.Task, count: int) -> str:
    images = task.train[0][:count]
    began = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):  # the peers' progress
        predict = CONTENDERS[name](model, images)
    seconds = time.perf_counter() - began
    sqnr, same, score = compared(predict, task)
    return f"| {name} | {sqnr:.1f} | {same:.2%} | {score:.2%} | {seconds:.0f} |"


def table(title: str, names: tuple[str, ...], model: nn.Module, task: tasks.Task, count: int) -> None:
    print(f"\n## {title}\n\n| | SQNR, dB | agreement | score | quantized in, s |\n|---|---|---|---|---|")
    for name in names:
        try:
            print(row(name, model, task, count), flush=True)
        except ImportError as error:
            print(f"| {name} | not run: {error} | | | |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="INT8 accuracy of vitc and its peers on trained models")
    parser.add_argument("--images", type=int, default=128, help="calibration images")
    parser.add_argument("--only", nargs="+", default=["digits", "figures", "segments"])
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    np.random.seed(0)
    packages = ("torch", "nncf", "openvino", "onnxruntime", "nvidia-modelopt")
    print("# INT8 accuracy beside the peers\n")
    print(
        f"{stamp('int8_accuracy.py', *packages)} {torch.get_num_threads()} thread(s); {args.images} calibration"
        " images.",
        end=" ",
    )
    print("What the columns mean is in that file's head.")
    for name in args.only:
        task = tasks.load(name)
        # AdaRound trains: seconds on digits, many minutes on the others.
        names = tuple(n for n in CONTENDERS if name == "digits" or "AdaRound" not in n)
        table(name, names, task.model, task, args.images)
        if name == "digits":
            for title, plant in (
                ("outlier channels planted", plant_outliers),
                ("heavy-tailed attention planted", plant_heavy_tails),
            ):
                table(f"{name}, {title}", PLANTED, plant(task.model), task, args.images)


if __name__ == "__main__":
    main()
