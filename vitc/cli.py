"""The command line: the Python names as commands. Exit codes are those of vitc/exit_codes.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitc.errors import InputError
from vitc.exit_codes import CHECK_FAILED
from vitc.explore import explore
from vitc.printable import printable_lines
from vitc.terminal import run_command

if TYPE_CHECKING:
    from vitc.compiler.request import Request
    from vitc.graph.program import BatchRange
    from vitc.lowering.lint import Agreement
    from vitc.pipeline.instruments import Numerics as NumericsInstrument
    from vitc.task import Task

app = typer.Typer(
    help="Makes Vision Transformers fast on real devices.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Model = Annotated[str, typer.Argument(help="timm:NAME, hf:NAME, torchvision:NAME, file.py:factory, or a .pt2 file")]
TargetName = Annotated[str, typer.Option("--target", "-t", help="a name from 'vitc targets', or a .toml file")]
Calibration = Annotated[
    Path | None, typer.Option(help="folder of images, or .npy file \\[n, C, H, W] of preprocessed float32 images")
]
Attention = Annotated[str, typer.Option(help="exact, window, or window-attention{window=256,overlap=64}")]
Quantize = Annotated[str, typer.Option(help="auto, int8, none, or quantize-int8{rounding=gptq}")]
Batch = Annotated[str, typer.Option(help="the batch sizes to serve, as 1:64; none: the example's only")]
Resume = Annotated[
    Path | None, typer.Option(help="folder for what calibration and the search have found, to go on from")
]
Numerics = Annotated[
    float | None,
    typer.Option("--numerics", help="refuse the first pass that changes the outputs by more than this share, as 1e-3"),
]
Pipeline = Annotated[str | None, typer.Option(help="passes instead of the default ones")]
DumpFolder = Annotated[Path | None, typer.Option("--dump", help="folder for the graph after each pass")]
Random = Annotated[bool, typer.Option("--random-weights", help="do not load pretrained weights")]
Checkpoint = Annotated[
    Path | None, typer.Option(help="weights of your own: .safetensors, or what torch.save wrote (nothing in it is run)")
]
Classes = Annotated[int | None, typer.Option("--num-classes", help="outputs of the classifier, where not the zoo's")]
Size = Annotated[str | None, typer.Option(help="side of the input in pixels, or HEIGHTxWIDTH, where not the zoo's")]
Mean = Annotated[str | None, typer.Option(help="of each channel, for values in 0 to 1, as 0.485,0.456,0.406")]
Std = Annotated[str | None, typer.Option(help="of each channel, as 0.229,0.224,0.225")]
Labels = Annotated[Path | None, typer.Option(help="names of the classes: a text file, one a line, or a JSON list")]
PassFile = Annotated[list[Path] | None, typer.Option("--passes", help="Python files that register passes")]
PruneBudget = Annotated[str | None, typer.Option("--prune", help="0.35, flops=0.4, latency=0.3, or a saved plan.json")]
TaskFile = Annotated[
    Path | None, typer.Option(help='JSON: what the outputs mean, as {"kind": "classification", "labels": ["cat", …]}')
]
MaxDrop = Annotated[float | None, typer.Option(help="the share of calibration images that INT8 may answer differently")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]


@app.command()
def compile(
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="where the bundle goes")],
    target: TargetName = "cpu",
    task: TaskFile = None,
    calibration: Calibration = None,
    prune: PruneBudget = None,
    attention: Attention = "exact",
    quantize: Quantize = "auto",
    evaluate: Annotated[
        str | None, typer.Option(help="file.py:function, from a callable model to a score, higher is better")
    ] = None,
    max_drop: MaxDrop = None,
    resume: Resume = None,
    batch: Batch = "1:64",
    pipeline: Pipeline = None,
    dump: DumpFolder = None,
    numerics: Numerics = None,
    checkpoint: Checkpoint = None,
    num_classes: Classes = None,
    size: Size = None,
    mean: Mean = None,
    std: Std = None,
    labels: Labels = None,
    random_weights: Random = False,
    passes: PassFile = None,
    as_json: AsJson = False,
) -> None:
    """Compile a model and save its bundle."""
    from vitc.bundle.write import check_destination
    from vitc.compiler.api import compile_request

    check_destination(out)
    _load_pass_files(passes)
    request, watch = _request(
        target, task=_task(task), calibration=calibration, prune=_budget(prune), attention=attention,
        quantize=_none(quantize),
        evaluate=_function(evaluate), max_drop=max_drop, resume=resume, batch=_batch(batch), pipeline=pipeline,
        dump=dump, progress=not as_json, numerics=numerics,
    )  # fmt: skip
    loaded = _model(model, random_weights, checkpoint, num_classes, _size(size))
    compiled = compile_request(loaded, _described(request, loaded, size, mean, std, labels))
    bundle = compiled.save(out, "file" if out.suffix == ".vitc" else "folder")
    _print(
        {**compiled.report.to_dict(), "bundle": str(bundle.path), **_deviations(watch)},
        f"{compiled.report}\n{_table(watch)}bundle    {bundle.path}",
        as_json,
    )


@app.command()
def plan(
    model: Model,
    target: TargetName = "cpu",
    calibration: Calibration = None,
    prune: PruneBudget = None,
    attention: Attention = "exact",
    quantize: Quantize = "auto",
    resume: Resume = None,
    batch: Batch = "1:64",
    pipeline: Pipeline = None,
    dump: DumpFolder = None,
    numerics: Numerics = None,
    checkpoint: Checkpoint = None,
    num_classes: Classes = None,
    size: Size = None,
    mean: Mean = None,
    std: Std = None,
    labels: Labels = None,
    random_weights: Random = False,
    passes: PassFile = None,
    prove: Annotated[bool, typer.Option(help="also build the network with TensorRT-RTX, without a GPU")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what compile would do, without building an engine."""
    from vitc.compiler.planning import make_plan
    from vitc.lowering.lint import compare

    _load_pass_files(passes)
    request, watch = _request(
        target, calibration=calibration, prune=_budget(prune), attention=attention, quantize=_none(quantize),
        resume=resume, batch=_batch(batch), pipeline=pipeline, dump=dump, progress=not as_json, numerics=numerics,
    )  # fmt: skip
    loaded = _model(model, random_weights, checkpoint, num_classes, _size(size))
    made = make_plan(loaded, _described(request, loaded, size, mean, std, labels))
    data, text = {**made.report.to_dict(), **_deviations(watch)}, f"{made.report}\n{_table(watch)}".rstrip()
    if prove:
        engine = made.prove()
        data["layers"] = engine.layers.summary()
        counts = ", ".join(f"{n} {kind}" for kind, n in engine.layers.summary().items())
        agreement = compare(made.lint("tensorrt-rtx 1.7"), engine.layers)
        data["agreement_with_engine"] = agreement.to_dict()
        text += (
            f"\nproof     {engine.distribution} {engine.version}, {engine.capability}: {counts}\nproof     {agreement}"
        )
    _print(data, text, as_json)
    if prove and not data["agreement_with_engine"]["agrees"]:
        raise typer.Exit(CHECK_FAILED)


@app.command()
def groups(model: Model, target: TargetName = "cpu", random_weights: Random = False, as_json: AsJson = False) -> None:
    """Show what pruning can cut from a model, and what it cannot, with the reason."""
    import vitc
    from vitc.targets import load

    device = load(target)  # a wrong name is said before a model is loaded
    found = vitc.prunable_groups(_model(model, random_weights), device)
    _print(found.to_dict(), found.text(), as_json)


@app.command()
def sensitivity(
    model: Model,
    calibration: Annotated[
        Path, typer.Option(help="folder of images, or .npy file \\[n, C, H, W] of preprocessed float32 images")
    ],
    target: TargetName = "cpu",
    by: Annotated[str, typer.Option(help="block or layer")] = "block",
    images: Annotated[int, typer.Option(help="calibration images to measure on")] = 64,
    plot: Annotated[Path | None, typer.Option(help="an .svg file for the plot")] = None,
    random_weights: Random = False,
    as_json: AsJson = False,
) -> None:
    """Show what INT8 costs, block by block or layer by layer."""
    import vitc
    from vitc.calibration.source import check_source
    from vitc.targets import load

    device = load(target)
    check_source(calibration)
    found = vitc.sensitivity(
        _model(model, random_weights),
        device,
        calibration=calibration,
        by=by,  # type: ignore[arg-type]
        images=images,
    )
    if plot is not None:
        found.save_svg(plot)
    _print(found.to_dict(), str(found), as_json)


@app.command()
def lint(
    model: Annotated[Path, typer.Argument(help="an ONNX file, of vitc or of another tool, or a bundle")],
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="a target's name or file; default: the bundle's own, or orin")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="'tensorrt 10.3', 'tensorrt-rtx 1.7', 'openvino' …")] = None,
    prove: Annotated[bool, typer.Option(help="also build it with TensorRT-RTX, without a GPU, and compare")] = False,
    notes: Annotated[bool, typer.Option(help="also what need not be mended")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what an engine will do with each block of an ONNX file or a bundle, and why. Exit code 3: errors, or the
    proof differs."""
    from vitc.bundle import is_bundle, read_bundle
    from vitc.lowering.lint import lint as lint_model
    from vitc.targets import available

    if is_bundle(model):
        bundle = read_bundle(model)
        model, own = bundle.model, bundle.manifest.target.get("name")
        target = target or (own if own in available() else None)
    target = target or "orin"
    report = lint_model(model, target, engine=engine)
    data, text = report.to_dict(), report.text(notes)
    differs = False
    if prove:
        agreement = _proved(model, target)
        data["agreement"] = agreement.to_dict()
        text += f"\n\n{agreement}"
        differs = not agreement.agrees
    _print(data, text, as_json)
    if report.errors or differs:
        raise typer.Exit(CHECK_FAILED)


def _proved(model: Path, target: str) -> Agreement:
    """The lint for TensorRT-RTX against the layers it builds. Nodes without a name can't be compared."""
    from vitc.lowering.lint import compare
    from vitc.lowering.lint import lint as lint_model
    from vitc.lowering.tensorrt import build_engine
    from vitc.targets import load

    capability = load(target).proof_capability
    if capability is None:
        raise InputError(f"target {target!r} is no TensorRT target; choose one of its kind")
    return compare(
        lint_model(model, target, engine="tensorrt-rtx 1.7"), build_engine(model, capability=capability).layers
    )


@app.command()
def dump(
    model: Model, out: Path, target: TargetName = "cpu", pipeline: Pipeline = None, random_weights: Random = False
) -> None:
    """Write the graph after each pass as text into a folder."""
    from vitc.frontend.capture import capture
    from vitc.pipeline.default import default_pipeline
    from vitc.pipeline.instruments import Dump
    from vitc.pipeline.manager import run_pipeline
    from vitc.pipeline.text import parse_pipeline
    from vitc.targets import load

    device = load(target)
    passes = default_pipeline(device, int8=False) if pipeline is None else parse_pipeline(pipeline)
    run_pipeline(capture(_model(model, random_weights), device), passes, (Dump(out),))  # a dump needs no lowering
    for path in sorted(out.glob("[0-9][0-9]-*.txt")):
        print(path)


app.command()(explore)


@app.command()
def diff(before: Path, after: Path) -> None:
    """Compare two graph dumps node by node: what was added, removed and changed."""
    from vitc.explorer.dumps import differences

    for line in differences(before, after):
        print(line)


@app.command()
def targets(as_json: AsJson = False) -> None:
    """List the known targets."""
    from vitc.targets import available, load

    rows = [load(name) for name in available()]
    text = "\n".join(f"{t.name:<12} {t.title}" for t in rows)
    _print([t.to_dict() for t in rows], text, as_json)


@app.command(name="passes")
def list_passes(passes: PassFile = None, as_json: AsJson = False) -> None:
    """List the known passes with their options."""
    from vitc.pipeline.registry import known_passes, options_of

    _load_pass_files(passes)
    data = [
        {
            "name": name,
            "needs": cls.needs,
            "gives": cls.gives,
            "options": list(options_of(cls)),
            "doc": (cls.__doc__ or "").strip(),
        }
        for name, cls in known_passes().items()
    ]
    lines = []
    for row in data:
        options = f"{{{','.join(row['options'])}}}" if row["options"] else ""
        first = str(row["doc"]).split("\n", 1)[0]
        lines.append(f"{row['name']}{options}\n    {first}")
    _print(data, "\n".join(lines), as_json)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what is installed, which targets can be built here, and why the others can't."""
    from vitc.doctor import examine

    findings = examine()
    _print(findings, "\n".join(f"{name:<22} {text}" for name, text in findings.items()), as_json)


#: `python -m vitc.runtime` reads the arguments of these, --help too.
_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def _runtime(command: str, arguments: list[str]) -> None:
    from vitc.runtime.__main__ import main as runtime_main

    code = runtime_main([command, *arguments], "vitc")
    if code:
        raise typer.Exit(code)


@app.command(context_settings=_PASSED_ON)
def build(context: typer.Context) -> None:
    """Build a bundle's engine on this machine."""
    _runtime("build", context.args)


@app.command(context_settings=_PASSED_ON)
def run(context: typer.Context) -> None:
    """Run a bundle on pictures or on arrays: vitc run BUNDLE photo.jpg, vitc run BUNDLE --input x=x.npy."""
    _runtime("run", context.args)


@app.command(context_settings=_PASSED_ON)
def watch(context: typer.Context) -> None:
    """Watch videos, cameras and streams: vitc watch BUNDLE SOURCE --track --line gate=0.5,0,0.5,1 --save out.mp4."""
    _runtime("watch", context.args)


@app.command(context_settings=_PASSED_ON)
def bench(context: typer.Context) -> None:
    """Time a bundle on this machine."""
    _runtime("bench", context.args)


@app.command(context_settings=_PASSED_ON)
def check(context: typer.Context) -> None:
    """Run a bundle's self-check against its golden outputs."""
    _runtime("check", context.args)


@app.command(context_settings=_PASSED_ON)
def verify(context: typer.Context) -> None:
    """Check every hash of a bundle, and with --key PUBLIC whose signature it has."""
    _runtime("verify", context.args)


@app.command()
def sign(
    bundle: Path,
    key: Annotated[Path, typer.Option(help="minisign's secret key, as `minisign -G` makes it")],
    as_json: AsJson = False,
) -> None:
    """Sign a bundle: the signature goes beside it, as BUNDLE.minisig."""
    from getpass import getpass

    from vitc.bundle import sign as sign_bundle

    place = sign_bundle(bundle, key, lambda: getpass(f"Password of {key}: "))
    _print({"signature": str(place)}, str(place), as_json)


def _model(
    name: str,
    random_weights: bool,
    checkpoint: Path | None = None,
    num_classes: int | None = None,
    size: tuple[int, int] | None = None,
) -> Any:
    from vitc.frontend.models import load_model

    size = None if ".py:" in name else size  # a factory has made its model: --size is of the example then
    return load_model(name, not random_weights, checkpoint=checkpoint, num_classes=num_classes, size=size)


def _example(model: Any, size: tuple[int, int] | None) -> Any:
    """None where the model's own config tells its inputs, else a picture of that size."""
    import torch

    from vitc.frontend.model_config import infer_example_inputs

    if not isinstance(model, torch.nn.Module):
        return None
    try:
        infer_example_inputs(model)
        return None
    except InputError:
        if size is None:
            raise InputError(
                f"{type(model).__name__} has no config that tells its input; pass --size 224, or --size 192x256, if it "
                "takes pictures of three channels. For other inputs export it with torch.export and give the .pt2 file"
            ) from None
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))


def _size(text: str | None) -> tuple[int, int] | None:
    """--size: 224, or 192x256 as height and width."""
    if text is None:
        return None
    height, _, width = text.partition("x")
    if not height.isdecimal() or not (width or height).isdecimal() or min(int(height), int(width or height)) < 1:
        raise InputError(f"--size takes a side in pixels, as 224, or height and width, as 192x256; got {text!r}")
    return int(height), int(width or height)


def _channels(option: str, text: str) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} takes a number per channel, as 0.485,0.456,0.406; got {text!r}") from None
    return red, green, blue


def _described(
    request: Request, model: Any, size: str | None, mean: str | None, std: str | None, labels: Path | None
) -> Request:
    """The request with what --size, --mean, --std and --labels say of pictures and classes."""
    from dataclasses import replace

    from vitc.calibration.preprocessing import Preprocessing
    from vitc.frontend.model_config import infer_preprocessing
    from vitc.task import Classification, read_labels

    request = replace(request, example_inputs=_example(model, _size(size)))
    if labels is not None:
        request = replace(request, task=Classification(labels=read_labels(labels)))
    if mean is None and std is None:
        return request
    if mean is None or std is None:
        raise InputError("--mean and --std go together: a picture is (values in 0 to 1 - mean) / std")
    known = infer_preprocessing(model)
    shape = _size(size) or (None if known is None else known.size)
    if shape is None:
        raise InputError("--mean and --std need --size, for the model's config does not say the input's size")
    fresh = Preprocessing(shape, _channels("--mean", mean), _channels("--std", std))
    given = fresh if known is None else replace(known, size=shape, mean=fresh.mean, std=fresh.std)
    return replace(request, preprocessing=given)


def _request(target: str, numerics: float | None, **arguments: Any) -> tuple[Request, NumericsInstrument | None]:
    """The request, checked before a model is loaded, and the instrument that --numerics asks for."""
    from vitc.compiler.request import Request
    from vitc.pipeline.instruments import Numerics as Instrument

    watch = None if numerics is None else Instrument(numerics)
    return Request.of(target, instruments=() if watch is None else (watch,), **arguments), watch


def _deviations(watch: NumericsInstrument | None) -> dict[str, Any]:
    return {} if watch is None else {"deviations": watch.deviations}


def _table(watch: NumericsInstrument | None) -> str:
    rows = {} if watch is None else watch.deviations
    return "".join(f"deviation {value:.2e} of the largest output behind {text}\n" for text, value in rows.items())


def _none(text: str) -> str | None:
    return None if text == "none" else text


def _batch(text: str) -> BatchRange | None:
    """--batch as vitc.compile takes it."""
    from vitc.graph.program import BatchRange

    if text == "none":
        return None
    low, separator, high = text.partition(":")
    if not low.isdecimal() or not (high or low).isdecimal() or (separator and not high):
        raise InputError(f"--batch takes a range as 1:64, one size as 8, or none; got {text!r}")
    return BatchRange(int(low), int(high or low))


def _function(name: str | None) -> Any:
    """--evaluate as vitc.compile takes it."""
    if name is None:
        return None
    from vitc.frontend.models import function_in

    return function_in(name, "--evaluate")


def _task(path: Path | None) -> Task | None:
    from vitc.task import read_task

    return None if path is None else read_task(path)


def _budget(text: str | None) -> Any:
    """--prune as vitc.compile takes it."""
    if text is None:
        return None
    if text.endswith(".json"):
        return {"plan": text}
    measure, _, number = text.rpartition("=")
    try:
        return {measure or "params": float(number)}
    except ValueError:
        raise InputError(f"--prune takes 0.35, flops=0.4, latency=0.3 or a saved plan.json; got {text!r}") from None


def _load_pass_files(paths: list[Path] | None) -> None:
    """Running a file registers its passes."""
    import runpy

    for path in paths or ():
        if not path.is_file():
            raise InputError(f"there is no file of passes {str(path)!r}")
        runpy.run_path(str(path), run_name=path.stem)


def _print(data: Any, text: str, as_json: bool) -> None:
    print(json.dumps(data, indent=2, default=str) if as_json else printable_lines(text))


def main() -> None:
    """Entry point: what a user can mend becomes one line on stderr and exit code 1."""
    sys.exit(run_command("vitc", app))


if __name__ == "__main__":
    main()
