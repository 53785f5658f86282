"""The explorer: one HTML file that shows what the compiler did.

records     the nodes of a graph after each pass, plain data
collect     from Programs to records: the one module that reads torch's graphs
onnx_graph  from any ONNX file to records
dumps       from text dumps to records
changes     what a pass did: nodes matched by provenance, rewrites
modules     the user's module tree, equal blocks
layout      layers and order, module by module
metrics     what nodes may be coloured by
panels      tables and plots beside the graph, as data
story       a compilation with all that applies to it
document    the data part of the file, in the form of schema.json
summary     the same as plain text
html        the file itself, written and read back
report_page  a report as a page without script
viewer/     the page: plain JavaScript modules, inlined
sources     files that need no compiling: ONNX, bundles, dumps, explorer files
"""

from __future__ import annotations

from pathlib import Path

from vitc.explorer.document import Story, document, run_part
from vitc.explorer.html import page, read_page
from vitc.explorer.summary import summary

__all__ = ["Story", "document", "page", "read_page", "render", "write"]


def render(story: Story) -> str:
    """The whole file as text."""
    data, run = document(story), run_part(story)
    return page(data, run, summary(data))


def write(story: Story, path: str | Path) -> Path:
    """Writes the file."""
    path = Path(path)
    path.write_text(render(story), encoding="utf-8")
    return path
