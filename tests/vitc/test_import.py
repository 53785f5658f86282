"""`import vitc` is quick, because it brings nothing else; and its names are a promise."""

from __future__ import annotations

import subprocess
import sys

import pytest

import vitc

#: What users import. A name may come; one that goes needs a version in which it still works, and warns.
PUBLIC = [
    "AccuracyError",
    "AccuracyWarning",
    "BatchRange",
    "Classification",
    "CompiledModel",
    "Criterion",
    "Detection",
    "DistillConfig",
    "DistillResult",
    "Dump",
    "Features",
    "ImageFolder",
    "Instrument",
    "InternalError",
    "Layer",
    "Logits",
    "Numerics",
    "Pass",
    "Plan",
    "Preprocessing",
    "Program",
    "PrunePlan",
    "Pruned",
    "Rewriter",
    "Target",
    "VitcError",
    "available_targets",
    "compile",
    "distill",
    "known_criteria",
    "known_passes",
    "lint",
    "load",
    "load_target",
    "plan",
    "prunable_groups",
    "prune",
    "read_dump",
    "register_criterion",
    "register_pass",
    "replay_pruning",
    "sensitivity",
]

LOADED = "import sys; before = set(sys.modules); import vitc; print(*(set(sys.modules) - before))"


def test_import_loads_nothing_but_the_standard_library() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], cwd="/", capture_output=True, text=True, check=True)
    names = {name.partition(".")[0] for name in done.stdout.split()}
    assert names - set(sys.stdlib_module_names) == {"vitc"}
    assert {name for name in done.stdout.split() if name.startswith("vitc")} == {"vitc", "vitc.version"}


def test_the_public_names() -> None:
    assert sorted(vitc.__all__) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(vitc, name) is not None
    assert name in dir(vitc)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'vitc' has no attribute 'compiel'"):
        _ = vitc.compiel  # type: ignore[attr-defined]


def test_the_place_that_documentation_of_0_1_named_still_works() -> None:
    from vitc.frontend.torchvision_import import ensure_torchvision_imports
    from vitc.torchvision_import import ensure_torchvision_imports as formerly

    assert formerly is ensure_torchvision_imports
