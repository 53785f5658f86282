"""The command line: the Python names as commands.

Exit codes: 0 done, 1 a user error (the message says what to do), 2 a wrong command line, 3 a self-check, proof or lint
failed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitc.errors import InputError, VitcError
from vitc.explore import explore

if TYPE_CHECKING:
    from vitc.lowering.lint import Agreement

app = typer.Typer(
    help="Makes Vision Transformers fast on real devices.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Model = Annotated[str, typer.Argument(help="timm:NAME, hf:NAME, torchvision:NAME, file.py:factory, or a .pt2 file")]
TargetName = Annotated[str, typer.Option("--target", "-t", help="a name from 'vitc targets', or a .toml file")]
Calibration = Annotated[
    Path | None, typer.Option(help="folder of images, or .npy file [n, C, H, W] of preprocessed float32 images")
]
Pipeline = Annotated[str | None, typer.Option(help="passes instead of the default ones")]
DumpFolder = Annotated[Path | None, typer.Option("--dump", help="folder for the graph after each pass")]
Random = Annotated[bool, typer.Option("--random-weights", help="do not load pretrained weights")]
PassFile = Annotated[list[Path] | None, typer.Option("--passes", help="Python files that register passes")]
PruneBudget = Annotated[str | None, typer.Option("--prune", help="0.35, flops=0.4, latency=0.3, or a saved plan.json")]
MaxDrop = Annotated[float | None, typer.Option(help="the share of calibration images that INT8 may answer differently")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]


@app.command()
def compile(
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="where the bundle goes")],
    target: TargetName = "cpu",
    calibration: Calibration = None,
    prune: PruneBudget = None,
    pipeline: Pipeline = None,
    dump: DumpFolder = None,
    random_weights: Random = False,
    passes: PassFile = None,
    max_drop: MaxDrop = None,
    resume: Annotated[
        Path | None, typer.Option(help="folder for what calibration and the search have found, to go on from")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compile a model and save its bundle."""
    import vitc
    from vitc.frontend.models import load_model

    _load_pass_files(passes)
    compiled = vitc.compile(
        load_model(model, not random_weights), target, calibration=calibration, prune=_budget(prune), pipeline=pipeline,
        dump=dump, max_drop=max_drop, resume=resume, progress=not as_json,
    )  # fmt: skip
    bundle = compiled.save(out, "file" if out.suffix == ".vitc" else "folder")
    _print(
        {**compiled.report().to_dict(), "bundle": str(bundle.path)},
        f"{compiled.report()}\nbundle    {bundle.path}",
        as_json,
    )


@app.command()
def plan(
    model: Model,
    target: TargetName = "cpu",
    calibration: Calibration = None,
    pipeline: Pipeline = None,
    dump: DumpFolder = None,
    random_weights: Random = False,
    passes: PassFile = None,
    prove: Annotated[bool, typer.Option(help="also build the network with TensorRT-RTX, without a GPU")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="only print the groups that pruning can cut, and what it cannot")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what compile would do, without building an engine."""
    import vitc
    from vitc.frontend.models import load_model
    from vitc.lowering.lint import compare

    _load_pass_files(passes)
    if prune:
        groups = vitc.prunable_groups(load_model(model, not random_weights), target)
        _print(groups.to_dict(), groups.text(), as_json)
        return
    made = vitc.plan(
        load_model(model, not random_weights), target, calibration=calibration, pipeline=pipeline, dump=dump,
        progress=not as_json,
    )  # fmt: skip
    data, text = made.report.to_dict(), str(made.report)
    if prove:
        engine = made.prove()
        data["layers"] = engine.layers.summary()
        counts = ", ".join(f"{n} {kind}" for kind, n in engine.layers.summary().items())
        agreement = compare(made.lint("tensorrt-rtx 1.7"), engine.layers)
        data["agreement"] = agreement.to_dict()
        text += (
            f"\nproof     {engine.distribution} {engine.version}, {engine.capability}: {counts}\nproof     {agreement}"
        )
    _print(data, text, as_json)
    if prove and not data["agreement"]["agrees"]:
        raise typer.Exit(3)


@app.command()
def sensitivity(
    model: Model,
    calibration: Annotated[
        Path, typer.Option(help="folder of images, or .npy file [n, C, H, W] of preprocessed float32 images")
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
    from vitc.frontend.models import load_model

    found = vitc.sensitivity(
        load_model(model, not random_weights),
        target,
        calibration=calibration,
        by=by,  # type: ignore[arg-type]
        images=images,
    )
    if plot is not None:
        found.save_svg(plot)
    _print(found.to_dict(), str(found), as_json)


@app.command()
def lint(
    model: Annotated[Path, typer.Argument(help="an ONNX file, of vitc or of another tool")],
    target: TargetName = "orin",
    engine: Annotated[str | None, typer.Option(help="'tensorrt 10.3', 'tensorrt-rtx 1.7', 'openvino' …")] = None,
    prove: Annotated[bool, typer.Option(help="also build it with TensorRT-RTX, without a GPU, and compare")] = False,
    notes: Annotated[bool, typer.Option(help="also what need not be mended")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what an engine will do with each block of an ONNX file, and why. Exit code 3: errors, or the proof
    differs."""
    from vitc.lowering.lint import lint as lint_model

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
        raise typer.Exit(3)


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
    import vitc
    from vitc.frontend.models import load_model

    vitc.plan(load_model(model, not random_weights), target, pipeline=pipeline, dump=out)
    for path in sorted(out.glob("[0-9][0-9]-*.txt")):
        print(path)


app.command()(explore)


@app.command()
def diff(before: Path, after: Path) -> None:
    """Compare two graph dumps line by line."""
    import difflib

    for path in (before, after):
        if not path.is_file():
            raise InputError(f"there is no dump {str(path)!r}; make some with: vitc dump MODEL FOLDER")
    lines = difflib.unified_diff(
        before.read_text().splitlines(), after.read_text().splitlines(), str(before), str(after), lineterm="", n=1
    )
    for line in lines:
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


def _runtime(*arguments: str) -> None:
    from vitc.runtime.__main__ import main as runtime_main

    code = runtime_main(list(arguments))
    if code:
        raise typer.Exit(code)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def build(context: typer.Context, bundle: Path) -> None:
    """Build a bundle's engine on this machine."""
    _runtime("build", str(bundle), *context.args)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run(context: typer.Context, bundle: Path) -> None:
    """Run a bundle on pictures or on arrays: vitc run BUNDLE photo.jpg, vitc run BUNDLE --input x=x.npy."""
    _runtime("run", str(bundle), *context.args)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def bench(context: typer.Context, bundle: Path) -> None:
    """Time a bundle on this machine."""
    _runtime("bench", str(bundle), *context.args)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def check(context: typer.Context, bundle: Path) -> None:
    """Run a bundle's self-check against its golden outputs."""
    _runtime("check", str(bundle), *context.args)


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
    print(json.dumps(data, indent=2, default=str) if as_json else text)


def main() -> None:
    """Entry point: user errors become one line on stderr and exit code 1."""
    try:
        app()
    except VitcError as error:
        print(f"vitc: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
