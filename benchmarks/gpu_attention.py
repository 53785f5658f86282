"""Times and checks the attention kernel against its peers, on any NVIDIA GPU of the supported architectures.

    python benchmarks/gpu_attention.py                       # every shape
    python benchmarks/gpu_attention.py --models B --batch 8  # some of them
    python benchmarks/gpu_attention.py --activations acts.npz --out result.json
    python benchmarks/gpu_attention.py --no-rtx              # without the attempt at a whole ViT on TensorRT-RTX

Peers, in the same run and on the same data: torch's scaled_dot_product_attention with each of its backends in FP16 and
BF16, and FlashAttention and SageAttention where they are installed. Each line gives the median time, the ratio to the
fastest peer, TOPS, GB/s, the share of the measured roofline, and the error against FP64 attention (cosine, relative L1,
the worst head's), on Gaussian data and on the activations of a ViT trained here on scikit-learn's digits. At the end
the goals, met or missed, and an attempt at a whole ViT on TensorRT-RTX (rtx_vit.py).

`--activations`: instead of the digits ViT's, an .npz with arrays [B, N, 3*H*D] (fused QKV outputs of a trained ViT's
layers) and an integer `num_heads`. Needs torch with CUDA, nvcc, and pip install 'vitc[cuda,demo,rtx]'. No result of
this script is in the repository yet: no GPU was at hand, and the kernel has never been timed.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rtx_vit

from vitc.errors import VitcError
from vitc.kernels import error_model
from vitc.kernels.fields import AttentionFields
from vitc.kernels.tiles import choose_tile

MODELS = {"S": (6, 64), "B": (12, 64), "L": (16, 64), "H": (16, 80)}
"""Heads and head dimension of ViT-S, B, L and H."""
PATCH = {"S": 16, "B": 16, "L": 16, "H": 14}
RESOLUTIONS = (224, 384, 518, 1024)
BATCHES = (1, 8, 64)
WARM_UP, REPEATS = 10, 50
LARGEST_CHECKED_TOKENS = 600
"""FP64 attention on the CPU is quadratic; longer shapes are timed only."""
NO_GPU_EXIT = 2


@dataclass(frozen=True)
class AttentionShape:
    """One attention of a ViT: `tokens` counts the class token."""

    model: str
    resolution: int
    batch: int
    heads: int
    tokens: int
    head_dim: int

    @property
    def operations(self) -> int:
        """Multiplications and additions of Q.K and P.V."""
        return 4 * self.batch * self.heads * self.tokens**2 * self.head_dim

    def bytes_moved(self, element: int) -> int:
        """Q, K, V read once and the output written once."""
        return 4 * self.batch * self.heads * self.tokens * self.head_dim * element


@dataclass(frozen=True)
class Roofline:
    """What this GPU reached in the same run: operations and bytes a second."""

    int8: float
    half: float
    bandwidth: float

    def fastest(self, shape: AttentionShape, element: int) -> float:
        """The least seconds for a shape: compute or memory, whichever takes longer."""
        rate = self.int8 if element == 1 else self.half
        return max(shape.operations / rate, shape.bytes_moved(element) / self.bandwidth)


@dataclass(frozen=True)
class Line:
    """One contestant at one shape; seconds, errors against FP64 on the unquantized data (NaN: not checked)."""

    shape: AttentionShape
    contestant: str
    element: int
    seconds: float
    cosine: float = math.nan
    relative_l1: float = math.nan
    worst_head_l1: float = math.nan


def shapes(models: Sequence[str], resolutions: Sequence[int], batches: Sequence[int]) -> Iterator[AttentionShape]:
    for model in models:
        heads, dim = MODELS[model]
        for resolution in resolutions:
            tokens = (resolution // PATCH[model]) ** 2 + 1
            for batch in batches:
                yield AttentionShape(model, resolution, batch, heads, tokens, dim)


def errors(out: npt.NDArray[Any], true: npt.NDArray[Any], heads: int) -> tuple[float, float, float]:
    """Cosine, relative L1, and the worst head's relative L1 of [B, N, H*D] arrays."""
    a, b = out.astype(np.float64), true.astype(np.float64)
    cosine = float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b)))
    per_head = (*a.shape[:2], heads, -1)
    difference = np.abs(a - b).reshape(per_head).sum((0, 1, 3))
    size = np.abs(b).reshape(per_head).sum((0, 1, 3))
    return cosine, float(difference.sum() / size.sum()), float((difference / size).max())


def table(lines: Sequence[Line], roofline: Roofline) -> str:
    """The result as text, one line a contestant, each shape's fastest peer as the measure."""
    rows = []
    for line in lines:
        s = line.shape
        rows.append(
            f"ViT-{s.model} {s.resolution:4} px  B {s.batch:2}  N {s.tokens:4}  {line.contestant:18} "
            f"{line.seconds * 1e6:9.1f} us  x{ratio(line, lines):5.2f}  "
            f"{s.operations / line.seconds / 1e12:7.1f} TOPS  "
            f"{s.bytes_moved(line.element) / line.seconds / 1e9:7.1f} GB/s  "
            f"{roofline.fastest(s, line.element) / line.seconds:6.1%} of roofline  "
            f"cos {line.cosine:.5f}  L1 {line.relative_l1:.4f}  worst head {line.worst_head_l1:.4f}"
        )
    return "\n".join(rows)


@dataclass(frozen=True)
class Goal:
    """One figure to be reached, and the lines it is asked of."""

    text: str
    figure: Callable[[Line, Sequence[Line], Roofline], float]
    least: float
    asked_of: Callable[[Line], bool]


def ratio(line: Line, lines: Sequence[Line]) -> float:
    """How many times faster than the fastest peer at the same shape; NaN without one."""
    peers = [x.seconds for x in lines if x.shape == line.shape and not x.contestant.startswith("vitc")]
    return min(peers) / line.seconds if peers else math.nan


GOALS = (
    Goal(
        "x1.5 the fastest peer at N <= 577, batch >= 8",
        lambda line, lines, _: ratio(line, lines),
        1.5,
        lambda x: (
            x.contestant == "vitc int8" and x.shape.tokens <= 577 and x.shape.batch >= 8 and x.shape.resolution > 0
        ),
    ),
    Goal(
        "x1.0 the fastest peer at batch 1",
        lambda line, lines, _: ratio(line, lines),
        1.0,
        lambda x: x.contestant == "vitc int8" and x.shape.batch == 1,
    ),
    Goal(
        "60 % of the roofline at batch 64",
        lambda line, _, roofline: roofline.fastest(line.shape, line.element) / line.seconds,
        0.6,
        lambda x: x.contestant == "vitc int8" and x.shape.batch == 64 and x.shape.resolution > 0,
    ),
    Goal("cos >= 0.999 in INT8", lambda x, _, __: x.cosine, 0.999, lambda x: x.contestant == "vitc int8"),
    Goal(
        "relative L1 <= 0.064 in INT8", lambda x, _, __: -x.relative_l1, -0.064, lambda x: x.contestant == "vitc int8"
    ),
    Goal(
        "cos >= 0.9999 with P in FP16", lambda x, _, __: x.cosine, 0.9999, lambda x: x.contestant == "vitc int8 half-pv"
    ),
)
"""Issue 5's, for an H200. What was not measured (NaN) counts neither way."""


def verdicts(lines: Sequence[Line], roofline: Roofline) -> list[str]:
    """A line for each goal: met, missed with the worst figure and where, or not measured."""
    said = []
    for goal in GOALS:
        figures = [(goal.figure(x, lines, roofline), x) for x in lines if goal.asked_of(x)]
        figures = [pair for pair in figures if not math.isnan(pair[0])]
        if not figures:
            said.append(f"not measured: {goal.text}")
            continue
        worst, line = min(figures, key=lambda pair: pair[0])
        verdict = "met" if worst >= goal.least else "MISSED"
        said.append(f"{verdict}: {goal.text}; worst {abs(worst):.4f} at {line.shape}, {len(figures)} shapes")
    return said


class Gpu:
    """Everything that touches torch and the device."""

    def __init__(self, torch: Any) -> None:
        from vitc.kernels.launch import CubinLaunch

        self.torch = torch
        properties = torch.cuda.get_device_properties(0)
        self.name, self.sm_count = properties.name, properties.multi_processor_count
        self.arch = f"sm_{properties.major}{properties.minor}"
        torch.zeros(1, device="cuda")  # makes the context that the launcher loads into
        self.launch = CubinLaunch()

    def seconds(self, run: Callable[[], Any]) -> float:
        """The median of REPEATS, each between two events of its own."""
        for _ in range(WARM_UP):
            run()
        pairs = [tuple(self.torch.cuda.Event(enable_timing=True) for _ in range(2)) for _ in range(REPEATS)]
        for start, stop in pairs:
            start.record()
            run()
            stop.record()
        self.torch.cuda.synchronize()
        return statistics.median(start.elapsed_time(stop) for start, stop in pairs) / 1e3

    def roofline(self) -> Roofline:
        """Square matrix products in INT8 and FP16, and a copy, as torch does them."""
        torch, n = self.torch, 8192
        half = torch.randn(n, n, device="cuda", dtype=torch.float16)
        whole = torch.randint(-128, 128, (n, n), device="cuda", dtype=torch.int8)
        source = torch.empty(1 << 30, device="cuda", dtype=torch.uint8)
        target = torch.empty_like(source)
        return Roofline(
            int8=2 * n**3 / self.seconds(lambda: torch._int_mm(whole, whole.t())),
            half=2 * n**3 / self.seconds(lambda: half @ half),
            bandwidth=2 * source.numel() / self.seconds(lambda: target.copy_(source)),
        )

    def peers(self, q: Any, k: Any, v: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
        """Name and call of each peer that works here on q, k, v [B, H, N, D] in FP32."""
        from torch.nn.attention import SDPBackend, sdpa_kernel

        functional = self.torch.nn.functional
        for dtype in (self.torch.float16, self.torch.bfloat16):
            operands = [x.to(dtype).contiguous() for x in (q, k, v)]
            short = str(dtype).removeprefix("torch.")
            for backend in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION", "MATH"):

                def sdpa(operands: Any = operands, backend: str = backend) -> Any:
                    with sdpa_kernel(getattr(SDPBackend, backend)):
                        return functional.scaled_dot_product_attention(*operands)

                yield f"{backend.split('_')[0].lower()} {short}", sdpa
        halves = [x.half().contiguous() for x in (q, k, v)]
        for module, call in (("flash_attn", "flash_attn_func"), ("sageattention", "sageattn")):
            try:
                function = getattr(__import__(module), call)
            except (ImportError, AttributeError) as error:
                print(f"left out: {module} ({error})", file=sys.stderr)
                continue
            operands = [x.transpose(1, 2).contiguous() for x in halves] if module == "flash_attn" else halves
            yield module, lambda f=function, o=operands: f(*o)

    def lines(self, shape: AttentionShape, qkv: npt.NDArray[np.float32]) -> list[Line]:
        """Every contestant on one fused QKV [B, N, 3*H*D]."""
        torch, result = self.torch, []
        heads, dim = shape.heads, shape.head_dim
        packed = torch.from_numpy(qkv).cuda()
        q, k, v = packed.reshape(shape.batch, shape.tokens, 3, heads, dim).permute(2, 0, 3, 1, 4)
        true = exact(qkv, heads, dim) if shape.tokens <= LARGEST_CHECKED_TOKENS else None

        def add(name: str, element: int, run: Callable[[], Any], real: Callable[[Any], Any]) -> None:
            out = run()
            measured = errors(real(out)[: len(true)], true, heads) if true is not None else (math.nan,) * 3
            result.append(Line(shape, name, element, self.seconds(run), *measured))

        for name, run in self.peers(q, k, v):
            tokens_first = name == "flash_attn"

            def flat(out: Any, tokens_first: bool = tokens_first) -> Any:
                out = out if tokens_first else out.transpose(1, 2)
                return out.reshape(shape.batch, shape.tokens, -1).float().cpu().numpy()

            try:
                add(name, 2, run, flat)
            except RuntimeError as error:
                print(f"left out: {name} at {shape} ({str(error).splitlines()[0]})", file=sys.stderr)
        for name, fields, tensor in self.own(shape, packed):
            out_dtype = torch.int8 if fields.int8_out else torch.float16
            out = torch.empty(shape.batch, shape.tokens, heads * dim, device="cuda", dtype=out_dtype)

            def launch(fields: AttentionFields = fields, tensor: Any = tensor, out: Any = out) -> Any:
                dtypes = [str(x.dtype).removeprefix("torch.") for x in (tensor, out)]
                stream = torch.cuda.current_stream().cuda_stream
                self.launch(fields, [tuple(tensor.shape)], dtypes, [tensor.data_ptr()], [out.data_ptr()], stream)
                return out

            scale = fields.out_scale or 1.0
            add(name, 1 if fields.int8_in else 2, launch, lambda o, s=scale: o.float().cpu().numpy() * s)
        return result

    def own(self, shape: AttentionShape, packed: Any) -> Iterator[tuple[str, AttentionFields, Any]]:
        """The kernel's variants: name, fields, and the tensor that it takes. One scale a tensor, by its maximum."""
        torch = self.torch
        parts = packed.reshape(shape.batch, shape.tokens, 3, -1)
        scales = [float(parts[:, :, i].abs().max()) / 127 for i in range(3)]
        quantized = torch.stack([(parts[:, :, i] / scales[i]).round() for i in range(3)], 2)
        whole = quantized.clamp(-128, 127).to(torch.int8).reshape(packed.shape).contiguous()
        for name, pv, is_int8, int8_out in (
            ("vitc int8", "int8", True, True),
            ("vitc int8 half-out", "int8", True, False),
            ("vitc int8 half-pv", "fp16", True, False),
            ("vitc fp16", "fp16", False, False),
        ):
            kinds = ("int8" if is_int8 else "fp16", "int8" if int8_out else "fp16")
            choice = choose_tile(
                self.arch,
                self.sm_count,
                shape.head_dim,
                *kinds,
                shape.tokens,
                shape.batch * shape.heads,
            )
            fields = AttentionFields(
                "packed",
                shape.heads,
                shape.head_dim,
                shape.head_dim**-0.5,
                0,
                choice.tile.query_rows,
                choice.tile.key_rows,
                pv,
                *(scales if is_int8 else (0.0, 0.0, 0.0)),
                scales[2] if int8_out else 0.0,
            )
            yield name, fields, whole if is_int8 else packed.half().contiguous()


def exact(qkv: npt.NDArray[np.float32], heads: int, dim: int) -> npt.NDArray[Any]:
    """FP64 attention of the first batch element: what every contestant's error is measured against."""
    fields = AttentionFields("packed", heads, dim, dim**-0.5, 0, 64, 64, "fp16", 0.0, 0.0, 0.0, 0.0)
    return error_model.exact(fields, [qkv[:1].astype(np.float16)])


def data(shape: AttentionShape, seed: int = 0) -> npt.NDArray[np.float32]:
    width = 3 * shape.heads * shape.head_dim
    return np.random.default_rng(seed).standard_normal((shape.batch, shape.tokens, width), np.float32)


def digits_vit() -> Iterator[tuple[AttentionShape, npt.NDArray[np.float32]]]:
    """The fused QKV of each block of a ViT that is trained here on scikit-learn's digits: about a minute."""
    from vitc.demo.digits import load_digits, qkv_activations, train

    digits = load_digits()
    for block, qkv in enumerate(qkv_activations(train(digits), digits.test_images[:64])):
        yield AttentionShape(f"digits.{block}", 0, 64, 2, qkv.shape[1], 32), qkv.numpy()


def trained(path: Path) -> Iterator[tuple[AttentionShape, npt.NDArray[np.float32]]]:
    """The fused QKV outputs in an .npz file."""
    with np.load(path) as file:
        heads = int(file["num_heads"])
        for name in file.files:
            if name != "num_heads":
                qkv = file[name].astype(np.float32)
                shape = AttentionShape(name, 0, qkv.shape[0], heads, qkv.shape[1], qkv.shape[2] // 3 // heads)
                yield shape, qkv


def find_gpu() -> Any | str:
    """torch, or the sentence that says why nothing can be timed here."""
    try:
        import torch
    except ImportError:
        return "torch is not installed: pip install torch"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no NVIDIA GPU: run it where `nvidia-smi` lists one"
    return torch


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--resolution", nargs="+", type=int, default=RESOLUTIONS)
    parser.add_argument("--batch", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--activations", type=Path, help="an .npz of a trained ViT's fused QKV outputs")
    parser.add_argument("--no-rtx", action="store_true", help="leave the whole ViT on TensorRT-RTX out")
    parser.add_argument("--out", type=Path, help="write the lines as JSON")
    options = parser.parse_args(arguments)
    torch = find_gpu()
    if isinstance(torch, str):
        print(f"gpu_attention.py times kernels on a GPU, and {torch}", file=sys.stderr)
        return NO_GPU_EXIT
    try:
        gpu = Gpu(torch)
        roofline = gpu.roofline()
        print(f"{gpu.name}, {gpu.arch}, {gpu.sm_count} SMs, torch {torch.__version__}, CUDA {torch.version.cuda}")
        print(
            f"measured: {roofline.int8 / 1e12:.0f} INT8 TOPS, {roofline.half / 1e12:.0f} FP16 TFLOPS, "
            f"{roofline.bandwidth / 1e9:.0f} GB/s"
        )
        gaussian = ((shape, data(shape)) for shape in shapes(options.models, options.resolution, options.batch))
        layers = trained(options.activations) if options.activations else digits_vit()
        lines: list[Line] = []
        for shape, qkv in itertools.chain(gaussian, layers):
            found = gpu.lines(shape, qkv)
            print(table(found, roofline), flush=True)
            lines += found
        print("\n".join(verdicts(lines, roofline)))
        attempt = None if options.no_rtx else rtx_vit.try_here(torch, gpu.seconds)
        if attempt is not None:
            print(attempt.text())
    except VitcError as error:
        print(f"gpu_attention.py: {error}", file=sys.stderr)
        return 1
    if options.out:
        record = {
            "device": gpu.name,
            "arch": gpu.arch,
            "torch": torch.__version__,
            "roofline": asdict(roofline),
            "date": str(datetime.date.today()),
            "goals": verdicts(lines, roofline),
            "tensorrt_rtx": asdict(attempt) if attempt is not None else None,
            "lines": [asdict(line) for line in lines],
        }
        options.out.write_text(json.dumps(record, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
