"""`vitc explore`: the command, and a model's way into the explorer."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitc.errors import InputError, VitcError

if TYPE_CHECKING:
    from vitc.explorer.document import Story


def explore(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="a model (timm:NAME, hf:NAME, torchvision:NAME, file.py:factory, file.pt2), an .onnx file, a bundle, "
            "a folder of dumps; or explorer files (.html) to compare"
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="the HTML file; default: NAME.explore.html here")
    ] = None,
    target: Annotated[str, typer.Option("--target", "-t", help="a name from 'vitc targets', or a .toml file")] = "orin",
    calibration: Annotated[
        Path | None, typer.Option(help="folder of images, or .npy file [n, C, H, W]; without it nothing becomes INT8")
    ] = None,
    pipeline: Annotated[str | None, typer.Option(help="passes instead of the default ones")] = None,
    random_weights: Annotated[bool, typer.Option("--random-weights", help="do not load pretrained weights")] = False,
    numerics: Annotated[
        bool, typer.Option(help="also say after which pass the outputs deviate, and by how much")
    ] = False,
    prove: Annotated[
        bool, typer.Option(help="also build with TensorRT-RTX, without a GPU, and show its layers")
    ] = False,
    open_it: Annotated[bool, typer.Option("--open", help="open it in the browser")] = False,
) -> None:
    """Write one HTML file that shows what the compiler did to a model, or what differs between several."""
    from vitc.explorer.sources import compared, story_of_file, told

    pages = [source for source in sources if source.endswith((".html", ".htm"))]
    if pages and len(pages) < len(sources):
        raise InputError("explorer files are compared with one another; make one of the model first, then compare")
    path = out or Path(f"{'comparison' if len(sources) > 1 else _stem(sources[0])}.explore.html")
    if pages:
        text = compared([Path(p) for p in pages])
    else:
        stories = [
            story_of_file(Path(source), target)
            or story_of_model(source, target, calibration, pipeline, random_weights, numerics, prove)
            for source in sources
        ]
        text = told(stories)
    path.write_text(text, encoding="utf-8")
    print(path)
    if open_it:
        webbrowser.open(path.resolve().as_uri())


def story_of_model(
    source: str,
    target: str,
    calibration: Path | None,
    pipeline: str | None,
    random_weights: bool,
    numerics: bool,
    prove: bool,
) -> Story:
    """Compiles a model up to ONNX and tells what each pass did, up to the one that failed if one did."""
    from vitc.compiler.planning import make_plan
    from vitc.compiler.request import Request
    from vitc.explorer.collect import Recorder
    from vitc.explorer.story import of_passes
    from vitc.frontend.models import load_model
    from vitc.pipeline.instruments import Numerics

    recorder, watch = Recorder(), Numerics()
    instruments = (recorder, watch) if numerics else (recorder,)
    request = Request.of(target, calibration=calibration, pipeline=pipeline, instruments=instruments)
    model = load_model(source, not random_weights)
    try:
        made = make_plan(model, request)
    except VitcError as error:
        if not recorder.programs:
            raise
        return of_passes(recorder.programs, title=source, deviations=watch.sequence, error=str(error))
    return of_passes(
        recorder.programs,
        title=source,
        report=made.report.to_dict(),
        lint=made.lint(),
        origins=made.onnx.origins,
        engines=made.proof() if prove else None,
        deviations=watch.sequence,
    )


def _stem(source: str) -> str:
    name = Path(source).stem if Path(source).exists() else source.rpartition(":")[2]
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name) or "model"
