"""The native engine's kernels over mutants of its models, under a sanitizer.

    python tests/fuzz/native.py --seed 1 --count 2000 --sanitizer address

Each mutant is refused, or runs without a finding, the same bits with one thread as with several. Half of them are
changed in the file, a quarter in the trunk that is made of it, and a quarter in the tape itself, which only
csrc/check.h sees. Prints one line of counts; exit code 1 where something is wrong.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FLAGS = {
    "none": (),
    "address": ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g", "-O1"),
    "thread": ("-fsanitize=thread", "-g", "-O1"),
}
_LIBRARIES = {"address": "libasan.so", "thread": "libtsan.so"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--sanitizer", choices=tuple(_FLAGS), default="none")
    parser.add_argument("--vnni", action="store_true", help="the vector kernels, where this processor has them")
    parser.add_argument("--models", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.models is not None:
        return fuzz(options.models, options.seed, options.count, options.sanitizer, portable=not options.vnni)
    with tempfile.TemporaryDirectory(prefix="vitc-fuzz-") as folder:
        _write_models(Path(folder))
        return _again_under(options.sanitizer, Path(folder))


def _write_models(folder: Path) -> None:
    """Here, and not where the sanitizer is: PyTorch, which makes them, need not pass it."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests/shared")]
    from native_graphs import transformer

    for i, sizes in enumerate(((5, 2, 16, 64, 1), (1, 1, 16, 16, 1), (33, 1, 48, 80, 2))):
        (folder / f"{i}.onnx").write_bytes(transformer(*sizes).SerializeToString())


def _again_under(sanitizer: str, folder: Path) -> int:
    """This program again, with the sanitizer's runtime before all other libraries, as it must be."""
    environment = os.environ | {
        "VITC_CACHE": os.environ.get("VITC_CACHE", str(folder)),
        # Python keeps memory until it ends; a size no machine has is an answer, not a finding.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests/fuzz")]),
    }
    command = [sys.executable, *sys.argv, "--models", str(folder)]
    if sanitizer in _LIBRARIES:
        # The C++ library too: Python has none, and the sanitizer wants to find `throw` as it begins.
        environment["LD_PRELOAD"] = " ".join(_file_of(name) for name in (_LIBRARIES[sanitizer], "libstdc++.so.6"))
    if sanitizer == "thread":
        command = ["setarch", "--addr-no-randomize", *command]  # its shadow memory has fixed places
    return subprocess.run(command, env=environment, check=False).returncode


def _file_of(library: str) -> str:
    ask = [os.environ.get("CXX", "c++"), f"-print-file-name={library}"]
    return subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()


def fuzz(folder: Path, seed: int, count: int, sanitizer: str, portable: bool) -> int:
    import numpy as np
    import onnx
    from onnx_mutants import mutated

    from vitc.errors import BuildError, InputError
    from vitc.lowering.cpu.native import blocks as blocks_module
    from vitc.lowering.cpu.native import library, tape
    from vitc.lowering.cpu.native.match import Trunk, Unsuitable, match
    from vitc.lowering.gate import admit_for_engine

    library._FLAGS = (*library._FLAGS, *_FLAGS[sanitizer])  # type: ignore[misc]
    blocks_module.aligned = tape.aligned = _exactly  # type: ignore[assignment]
    models = [onnx.load_model(str(path)) for path in sorted(folder.glob("*.onnx"))]
    rng = np.random.default_rng(seed)
    outcomes: Counter[str] = Counter()

    def attempt(trunk: Trunk, spoil_tape: bool) -> str:
        images, tokens, threads = (int(rng.integers(1, most)) for most in (4, 70, 5))
        whole = tape.write_tape(trunk)
        values = {}
        for name in trunk.inputs:
            value = rng.normal(size=(images, tokens, whole.buffers[whole.buffer_of[name]].width)).astype(np.float32)
            value.reshape(-1)[: int(rng.integers(4))] = rng.choice([np.nan, np.inf, 1e-45, 1e38])
            values[name] = value
        answers = []
        for number in (1, threads):
            blocks = blocks_module.Blocks(trunk, number, portable)
            try:
                if spoil_tape:
                    _spoil(blocks, np.random.default_rng(seed + number))
                answers.append({name: value.copy() for name, value in blocks.run(values, 2).items()})
            finally:
                blocks.close()
        if not spoil_tape and any(a.tobytes() != answers[1][name].tobytes() for name, a in answers[0].items()):
            return "THREADS DIFFER"
        return "ran"

    for number in range(count):
        kind = ("file", "file", "trunk", "tape")[number % 4]
        proto = models[int(rng.integers(len(models)))]
        try:
            with np.errstate(all="ignore"):
                if kind == "file":
                    proto = admit_for_engine(mutated(proto, rng).SerializeToString())
                trunk = match(proto.graph)
                if kind == "trunk":
                    trunk = _spoilt(trunk, rng)
                outcome = attempt(trunk, kind == "tape")
        except (Unsuitable, InputError, BuildError):
            outcome = "refused"
        except Exception as error:
            outcome = f"CRASH {type(error).__name__}"
            print(f"mutant {number} of seed {seed}: {type(error).__name__}: {str(error)[:200]}", flush=True)
        outcomes[f"{kind} {outcome}"] += 1
    print(f"seed {seed}, {count} mutants, sanitizer {sanitizer}: {dict(sorted(outcomes.items()))}")
    return int(any(word.isupper() for outcome in outcomes for word in outcome.split()))


def _exactly(shape, dtype):  # type: ignore[no-untyped-def]
    """`tape.aligned` without room at the ends, where an overflow would not be seen."""
    import numpy as np

    return np.empty(shape, dtype)


def _spoilt(trunk, rng):  # type: ignore[no-untyped-def]
    """A field of one block of the trunk changed."""
    import numpy as np

    blocks = list(trunk.blocks)
    place = int(rng.integers(len(blocks)))
    fields = list(blocks[place].__dataclass_fields__)
    name = fields[int(rng.integers(len(fields)))]
    value = getattr(blocks[place], name)
    if isinstance(value, np.ndarray):
        value = rng.choice([0, 1, 2]) * np.resize(
            value, [max(0, n + int(rng.choice([-16, -4, 0, 4, 16, 64]))) for n in value.shape]
        )
        value = value.astype(getattr(blocks[place], name).dtype)
    elif isinstance(value, int | float):
        value = type(value)(rng.choice([0, -1, 1, 3, 16, 1e9]))
    else:
        names = [*trunk.inputs, *(block.output for block in blocks), "nowhere"]
        value = names[int(rng.integers(len(names)))]
    blocks[place] = replace(blocks[place], **{name: value})
    return replace(trunk, blocks=tuple(blocks))


def _spoil(blocks, rng):  # type: ignore[no-untyped-def]
    """A number, no pointer, of the opened tape changed, and the tape opened again."""
    structs = [*blocks._tape.steps, *(part for s in blocks._tape.steps for part in (s.weights, s.norm, s.attention))]
    owner = structs[int(rng.integers(len(structs)))]
    # k and n state how long the arrays behind the pointers are, which nothing but the host knows: they shrink only.
    fields = [n for n, kind in owner._fields_ if kind.__name__ in ("c_int", "c_float")]
    name = fields[int(rng.integers(len(fields)))]
    before = getattr(owner, name)
    chosen = type(before)(rng.choice([0, -1, 1, 2, 3, 16, 32, 2**30]))
    setattr(owner, name, min(before, chosen) if name in ("k", "n", "width", "heads", "head_dim") else chosen)
    blocks.close()
    blocks._open()


if __name__ == "__main__":
    sys.exit(main())
