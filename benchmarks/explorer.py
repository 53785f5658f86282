"""Explorer files in a real browser: size, what loading takes, frames a second with everything open.

    vitc explore timm:vit_base_patch16_224 --random-weights -o vit-b.html
    python benchmarks/explorer.py vit-b.html … > benchmarks/results/explorer.md

Needs Chromium and its driver (apt-get install chromium chromium-driver) and selenium. Chromium draws in software here,
so a machine with a graphics card does better. The rows "10,000 nodes" are made by this script.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "shared"))

from explorer_many import ten_thousand
from explorer_page import Page, browser

from vitc.explorer import read_page, write

HEADER = (
    "file",
    "passes",
    "nodes of the last graph",
    "kB",
    "loading ms",
    "boxes, all open",
    "frames/s",
    "drawing, median ms",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="explorer files")
    parser.add_argument("--ms", type=int, default=3000, help="how long frames are counted")
    arguments = parser.parse_args()
    busy = os.getloadavg()[0]
    rows = []
    with tempfile.TemporaryDirectory() as folder, browser() as page:
        many = [write(ten_thousand(folded), Path(folder) / f"{name}.html")
                for folded, name in ((False, "10,000 nodes, flat"), (True, "10,000 nodes, 1,000 blocks"))]  # fmt: skip
        for path in (*arguments.files, *many):
            rows.append(_row(page, path, arguments.ms))
    print("# Explorer files in a browser\n")
    print("Made by `python benchmarks/explorer.py`: headless Chromium that draws in software, 1280 × 800.")
    print(f"{busy:.1f} processes wanted the {os.cpu_count()} cores on average in the minute before:")
    print("times are upper bounds, frames lower ones.")
    print("Drawing: what the page's own thread spends on a frame.\n")
    for cells in (HEADER, ("---",) * len(HEADER), *rows):
        print(f"| {' | '.join(map(str, cells))} |")


def _row(page: Page, path: Path, ms: int) -> tuple[object, ...]:
    data, _ = read_page(path)
    page.open(path)
    loading = round(page.run("return window.vitc.loadMs"))
    nodes = page.run("return window.vitc.graph.under[0].filter(i => window.vitc.graph.shown(i, 'after')).length")
    page.run("window.vitc.toggleAll(true)")
    frames = page.later(f"window.vitc.frames({ms})")
    complaints = page.complaints()
    if complaints:
        raise SystemExit(f"{path}: the browser complains: {complaints}")
    size = round(path.stat().st_size / 1000)
    return (
        path.stem,
        len(data["steps"]) - 1,
        nodes,
        size,
        loading,
        frames["boxes"],
        frames["fps"],
        f"{frames['draw']:.1f}",
    )


if __name__ == "__main__":
    main()
