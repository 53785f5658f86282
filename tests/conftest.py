"""For all tests: seeds, one thread, and a torchvision that imports beside a CPU torch."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

if find_spec("torch") is not None:
    import torch

    from vitc.frontend.torchvision_import import ensure_torchvision_imports

    torch.set_num_threads(1)
    ensure_torchvision_imports()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate-golden", action="store_true", help="write the files that golden tests compare with")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same random numbers."""
    if find_spec("torch") is not None:
        torch.manual_seed(0)
