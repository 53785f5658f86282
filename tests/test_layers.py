"""Who may import whom: the floors of the house, as CONTRIBUTING.md and docs/architecture.md describe them.

Read from the text of the modules, so imports that only serve annotations and imports inside functions count too.
"""

from __future__ import annotations

import networkx
import pytest
from sources import Import, imports, modules

#: The rooms of each floor. A room is a package or a module, and whatever is below it.
FLOORS = {
    "kernels": ["vitc.kernels"],
    "ground": [
        "vitc.errors",
        "vitc.exit_codes",
        "vitc.ownership",
        "vitc.printable",
        "vitc.version",
        "vitc.files",
        "vitc.terminal",
        "vitc.state_file",
        "vitc.task",
        "vitc.targets",
        "vitc.graph",
        "vitc.calibration",
        "vitc.cost",
        "vitc.pipeline",
    ],
    "passes": ["vitc.passes"],
    "lowering": ["vitc.lowering"],
    "device": ["vitc.bundle", "vitc.runtime", "vitc.video", "vitc.adaptive"],
    "explorer": ["vitc.explorer"],
    "road": ["vitc.frontend", "vitc.distillation", "vitc.mixed", "vitc.pruning", "vitc.compiler"],
    "roof": ["vitc", "vitc.cli", "vitc.demo", "vitc.explore", "vitc.doctor", "vitc.traffic", "vitc.torchvision_import"],
}

#: What each floor may import, beside itself.
MAY_IMPORT = {
    "kernels": [],
    "ground": [],
    "passes": ["ground", "kernels"],
    "lowering": ["ground", "kernels"],
    "device": ["ground", "kernels", "lowering"],
    "explorer": ["ground", "passes", "lowering", "device"],
    "road": ["ground", "kernels", "passes", "lowering", "device", "explorer"],
    "roof": ["ground", "kernels", "passes", "lowering", "device", "explorer", "road"],
}

#: (who imports, what): why it may all the same.
EXCEPTIONS = {
    ("vitc.kernels", "vitc.errors"): "one family of errors for everything that is called vitc",
    ("vitc.graph.attention_call", "vitc.kernels.fields"): "the arguments of an attention are the kernel's own fields",
    ("vitc.graph.ops", "vitc.kernels"): "an operator of the graph computes on the CPU what the kernel's reference does",
    ("vitc.graph.program", "vitc.passes.pruning.plan"): "an annotation: a program carries what was pruned, as data",
    ("vitc.pipeline.registry", "vitc.passes.all"): "a name of a pass is looked up: the passes register themselves",
    ("vitc.passes.quantization.tune_int8", "vitc.distillation"): "the one pass that trains",
}

#: What must run on a device, where no torch is installed.
WITHOUT_TORCH = [
    "vitc.bundle",
    "vitc.runtime",
    "vitc.kernels",
    "vitc.lowering.cpu",
    "vitc.lowering.gate",
    "vitc.lowering.lint",
    "vitc.lowering.tensorrt",
    "vitc.targets",
    "vitc.task",
    "vitc.video",
    "vitc.explorer.onnx_graph",
    "vitc.explorer.sources",
]


def is_within(module: str, room: str) -> bool:
    return module == room or module.startswith(room + ".")


def floor_of(module: str) -> str:
    """The floor whose room is the nearest around the module: `vitc` itself is the roof, and holds no other module."""
    for floor, rooms in FLOORS.items():
        if any(is_within(module, room) if room != "vitc" else module == "vitc" for room in rooms):
            return floor
    raise AssertionError(f"{module} is on no floor: give it one in {__name__}.FLOORS, and in docs/architecture.md")


def is_allowed(module: str, target: str) -> bool:
    here, there = floor_of(module), floor_of(target)
    return there == here or there in MAY_IMPORT[here] or exception_for(module, target) is not None


def exception_for(module: str, target: str) -> tuple[str, str] | None:
    return next((pair for pair in EXCEPTIONS if is_within(module, pair[0]) and is_within(target, pair[1])), None)


def inside(module: str) -> list[Import]:
    """What a module imports of vitc's own."""
    return [x for x in imports(module) if is_within(x.target, "vitc")]


def test_every_module_is_read() -> None:
    assert len(modules()) > 200
    assert {"vitc", "vitc.kernels.fields", "vitc.lowering.onnx.model", "vitc.passes.all"} <= set(modules())


def test_imports_run_downwards() -> None:
    upwards = [
        f"{module} ({floor_of(module)}), line {x.line}: {x.target} ({floor_of(x.target)})"
        for module in modules()
        for x in inside(module)
        if not is_allowed(module, x.target)
    ]
    assert upwards == []


def test_every_exception_is_still_needed() -> None:
    used = {exception_for(module, x.target) for module in modules() for x in inside(module)}
    assert set(EXCEPTIONS) - used == set()


def test_no_two_modules_need_each_other() -> None:
    """Annotations and imports inside functions count; only the registry's look for the passes does not."""
    pairs = {(module, x.target) for module in modules() for x in inside(module) if x.target != module}
    graph = networkx.DiGraph(pairs - {("vitc.pipeline.registry", "vitc.passes.all")})
    assert [sorted(circle) for circle in networkx.strongly_connected_components(graph) if len(circle) > 1] == []


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_the_device_wing_imports_no_torch(room: str) -> None:
    """Neither itself nor through what it imports as it is loaded."""
    seen: dict[str, list[str]] = {}
    todo = {module: [module] for module in modules() if is_within(module, room)}
    while todo:
        module, way = todo.popitem()
        seen[module] = way
        for x in imports(module):
            assert not is_within(x.target, "torch"), " → ".join([*way, x.target])
            if not x.late and not x.typing:
                # A module brings the packages around it.
                parts = x.target.split(".")
                around = [".".join(parts[: i + 1]) for i in range(len(parts))]
                todo |= {m: [*way, m] for m in around if m in modules() and m not in seen}
