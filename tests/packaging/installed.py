"""Run by another environment's Python from another directory: `installed.py REPOSITORY`. The installed vitc is
whole."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.resources import files
from pathlib import Path

MODULES = (
    "vitc",
    "vitc.passes.all",
    "vitc.lowering.onnx.model",
    "vitc.kernels.python_plugin",
    "vitc.runtime",
    "vitc.cli",
)
DATA = (
    ("vitc.targets", "orin.toml"),
    ("vitc.bundle", "build.sh"),
    ("vitc.kernels", "vit_attention.toml"),
    ("vitc.kernels", "cuda/attention.cu"),
    ("vitc.lowering.cpu.native", "csrc/engine.cpp"),
    ("vitc", "py.typed"),
)


def main(repository: Path) -> None:
    """Raises SystemExit with what is missing."""
    for name in MODULES:
        file = Path(str(import_module(name).__file__)).resolve()
        if repository.resolve() in file.parents and Path(sys.prefix).resolve() not in file.parents:
            sys.exit(f"{name} came from the repository ({file}), not from the installed package")
    for package, name in DATA:
        if not files(package).joinpath(name).is_file():
            sys.exit(f"{package} is installed without {name}")
    import vitc

    known = vitc.known_passes()
    if "tile-attention" not in known:
        sys.exit(f"the installed vitc knows no tile-attention: {sorted(known)}")
    print(f"installed vitc {vitc.__version__}: {len(MODULES)} modules, {len(DATA)} data files, {len(known)} passes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
