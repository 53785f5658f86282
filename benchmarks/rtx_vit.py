"""Whether TensorRT-RTX serves the GPU at hand: part of gpu_attention.py.

TensorRT-RTX 1.7 names no compute capability 9.0 (an H200's). A plan built without a fixed capability may load there
all the same: `attempt` builds one of a whole ViT with the attention plugin, asks `get_engine_validity`, and only then
loads it, checks it and times it against torch.compile. What TensorRT-RTX refuses, and in which words, is the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vitc.errors import VitcError

MODEL, BATCH, IMAGE = "vit_base_patch16_224", 8, (3, 224, 224)


@dataclass(frozen=True)
class Attempt:
    """What came of it: `refusal` in TensorRT-RTX's words, or the seconds of a call and its cosine to the FP32 model."""

    stage: str
    refusal: str = ""
    validity: str = ""
    seconds: float | None = None
    compiled_seconds: float | None = None
    cosine: float | None = None

    def text(self) -> str:
        head = f"TensorRT-RTX, {MODEL} in INT8, batch {BATCH}, no fixed compute capability"
        if self.seconds is None or self.compiled_seconds is None:
            return f"{head}: refused at {self.stage} ({self.validity or 'validity not asked'}): {self.refusal}"
        return (
            f"{head}: {self.validity}, {1e3 * self.seconds:.3f} ms a call, torch.compile in FP16 "
            f"{1e3 * self.compiled_seconds:.3f} ms (x{self.compiled_seconds / self.seconds:.2f}), cos {self.cosine:.5f}"
        )


def attempt(
    build: Callable[[], bytes],
    runtime: Callable[[], Any],
    run: Callable[[Any, bytes], tuple[float, float, float]],
) -> Attempt:
    """`build` gives the plan, `runtime` a TensorRT Runtime, `run` its seconds, torch.compile's, and the cosine."""
    try:
        plan = build()
    except VitcError as error:
        return Attempt("build", str(error))
    loader = runtime()
    validity, diagnostics = loader.get_engine_validity(plan)
    name = getattr(validity, "name", str(validity))
    if name == "INVALID":
        return Attempt("validity", f"diagnostics {int(diagnostics):#x}", name)
    try:
        return Attempt("run", "", name, *run(loader, plan))
    except VitcError as error:
        return Attempt("run", str(error), name)


def try_here(torch: Any, seconds: Callable[[Callable[[], Any]], float]) -> Attempt:
    """The attempt on this machine; `seconds` times a call on the GPU."""
    from vitc.frontend.torchvision_import import ensure_torchvision_imports

    ensure_torchvision_imports()
    import timm

    import vitc
    from vitc.kernels import python_plugin
    from vitc.lowering.tensorrt import api, engine
    from vitc.lowering.tensorrt.logger import build_log

    torch.manual_seed(0)
    model = timm.create_model(MODEL, pretrained=False).eval()
    images = torch.randn(BATCH, *IMAGE)
    try:
        trt = api.load("tensorrt_rtx")
    except VitcError as error:
        return Attempt("import", str(error))

    def build() -> bytes:
        made = vitc.plan(model, "h200", calibration=images).onnx.proto.SerializeToString()
        profile = engine.Profile(BATCH, BATCH, BATCH)
        return engine.build_engine(made, profile=profile, distribution="tensorrt_rtx").plan

    def runtime() -> Any:
        python_plugin.register(trt)
        return trt.Runtime(build_log(trt).logger)

    return attempt(build, runtime, lambda loader, plan: _run(torch, trt, loader, plan, model, images, seconds))


def _run(
    torch: Any,
    trt: Any,
    loader: Any,
    plan: bytes,
    model: Any,
    images: Any,
    seconds: Callable[[Callable[[], Any]], float],
) -> tuple[float, float, float]:
    from vitc.errors import BuildError

    loaded = loader.deserialize_cuda_engine(plan)
    if loaded is None:
        raise BuildError(f"{trt.__name__} {trt.__version__} did not load its own plan; its log says why")
    context = loaded.create_execution_context()
    names = [loaded.get_tensor_name(i) for i in range(loaded.num_io_tensors)]
    (source,) = (n for n in names if loaded.get_tensor_mode(n) == trt.TensorIOMode.INPUT)
    (target,) = (n for n in names if n != source)
    given = images.cuda()
    context.set_input_shape(source, tuple(given.shape))
    out = torch.empty(tuple(context.get_tensor_shape(target)), device="cuda")
    context.set_tensor_address(source, given.data_ptr())
    context.set_tensor_address(target, out.data_ptr())

    def call() -> None:
        if not context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise BuildError(f"{trt.__name__} {trt.__version__} refused to run its own plan; its log says why")

    own = seconds(call)
    with torch.no_grad():
        true = model(images).flatten().double()
        halves = given.half()
        compiled = torch.compile(model.cuda().half())
        peer = seconds(lambda: compiled(halves))
    got = out.flatten().double().cpu()
    return own, peer, float(true @ got / (true.norm() * got.norm()))
