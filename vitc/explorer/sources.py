"""What `vitc explore` opens, by its form: explorer files to compare, an ONNX file, a bundle, a folder of dumps; all
else is a model, which is compiled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitc.errors import InputError
from vitc.explorer.document import Story, document, run_part
from vitc.explorer.dumps import read_steps
from vitc.explorer.html import page, read_page
from vitc.explorer.summary import summary
from vitc.version import __version__


def compared(paths: Sequence[Path]) -> str:
    """One page that compares explorer files, the first against each other. Raises InputError."""
    files: list[dict[str, Any]] = []
    runs: list[dict[str, Any]] = []
    for path in paths:
        data, run = read_page(path)
        files += data.get("files", [data])
        runs += run.get("files", [run])
    title = " · ".join(str(each["title"]) for each in files)
    data = {"title": title, "files": files}
    return page(data, {"files": runs}, summary(data))


def told(stories: Sequence[Story]) -> str:
    """One page for one story, a comparison for several."""
    datas, runs = [document(s) for s in stories], [run_part(s) for s in stories]
    if len(stories) == 1:
        return page(datas[0], runs[0], summary(datas[0]))
    data = {"title": " · ".join(s.title for s in stories), "files": datas}
    return page(data, {"files": runs}, summary(data))


def story_of_file(path: Path, target: str) -> Story | None:
    """The story of a file or folder that needs no compiling; None for what is none. `target`: what an ONNX file is
    linted for. Raises InputError for one that is damaged."""
    if path.suffix == ".onnx":
        return story_of_onnx(path, path.name, target)
    if path.is_dir() and not (path / "manifest.json").exists():
        return Story(title=path.name, producer=f"vitc {__version__}", steps=read_steps(path))
    if path.suffix == ".vitc" or path.is_dir():
        return story_of_bundle(path)
    if path.exists() and path.suffix not in (".pt2", ".py"):
        raise InputError(
            f"cannot explore {str(path)!r}; give explorer files (.html), an .onnx file, a bundle, a folder of dumps, "
            "a .pt2 file or a model's name"
        )
    return None


def story_of_onnx(path: Path, title: str, target: str, facts: dict[str, str] | None = None) -> Story:
    """An ONNX file of any tool, with the lint for a target."""
    from dataclasses import replace

    from vitc.explorer import panels
    from vitc.explorer.collect import lint_values
    from vitc.explorer.onnx_graph import read_onnx, step_of
    from vitc.lowering.lint import lint
    from vitc.targets import load

    proto = read_onnx(path)
    step = step_of(proto, "as in the file")
    report = lint(proto, load(target))
    step = replace(step, values={**step.values, "lint": lint_values(report, {})})
    names = {node.name: node.name for node in step.nodes}
    told = {
        "producer": f"{proto.producer_name} {proto.producer_version}".strip() or "not said",
        "opset": ", ".join(f"{o.domain or 'ai.onnx'} {o.version}" for o in proto.opset_import),
        "linted for": f"{load(target).title}, {report.engine}",
        **(facts or {}),
    }
    return Story(
        title=title,
        producer=f"vitc {__version__}",
        target=target,
        facts=told,
        steps=[step],
        panels=[panels.lint(report, names)],
    )


def story_of_bundle(path: Path) -> Story:
    """A bundle: its ONNX model, and what its manifest says."""
    from vitc.bundle import read_bundle

    bundle = read_bundle(path)
    manifest = bundle.manifest
    target = dict(manifest.target)
    facts = {"bundle": path.name, "pipeline": manifest.pipeline, "made for": str(target.get("title", ""))}
    return story_of_onnx(bundle.model, path.name, str(target.get("name", "orin")), facts)
