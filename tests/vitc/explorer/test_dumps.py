"""Dumps as the explorer and `vitc diff` read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitc.errors import InputError
from vitc.explorer.dumps import differences, read_step, read_steps

BEFORE = """# stage captured
# target cpu, batch 1 to 64
%x : f32[batch, 4] = input
%linear : f32[batch, 4] = aten.linear(%x, @fc.weight, @fc.bias)  # fc
%clone : f32[batch, 4] = aten.clone(%linear)  # drop
%relu : f32[batch, 4] = aten.relu(%clone)  # act
%mul : f32[batch, 4] = aten.mul.Tensor(%relu, 2.0)
return [%mul]
@fc.weight : f32[4, 4]
@fc.bias : f32[4]
"""
AFTER = """# stage canonical, after drop-noops
# target cpu, batch 1 to 64
%x : f32[batch, 4] = input
%linear : f32[batch, 4] = aten.linear(%x, @fc.weight, @fc.bias)  # fc
%relu : f32[batch, 4] = aten.relu(%linear)  # act
%mul : f32[batch, 4] = aten.mul.Tensor(%relu, 3.0)
%neg : f32[batch, 4] = aten.neg(%mul)
return [%neg]
@fc.weight : f32[4, 4]
@fc.bias : f32[4]
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    for name, text in (("00-captured.txt", BEFORE), ("01-drop-noops.txt", AFTER)):
        (tmp_path / name).write_text(text)
    return tmp_path / "00-captured.txt", tmp_path / "01-drop-noops.txt"


def test_the_difference_is_by_node(files: tuple[Path, Path]) -> None:
    assert differences(*files) == [
        "- %clone : f32[batch, 4] = aten.clone(%linear)  # drop",
        "~ %relu : f32[batch, 4] = aten.relu(%linear)  # act",
        "    inputs; was %relu : f32[batch, 4] = aten.relu(%clone)  # act",
        "~ %mul : f32[batch, 4] = aten.mul.Tensor(%relu, 3.0)",
        "    options; was %mul : f32[batch, 4] = aten.mul.Tensor(%relu, 2.0)",
        "+ %neg : f32[batch, 4] = aten.neg(%mul)",
        "~ return [%neg]",
        "    inputs; was return [%mul]",
    ]
    assert differences(files[0], files[0]) == []


def test_a_line_that_moved_is_no_difference(files: tuple[Path, Path]) -> None:
    lines = BEFORE.splitlines()
    other = files[0].with_name("02-moved.txt")
    more = ["%neg : f32[batch, 4] = aten.neg(%x)"]
    other.write_text("\n".join([*lines[:3], *more, *lines[3:]]))
    third = files[0].with_name("03-moved.txt")
    third.write_text("\n".join([*lines[:5], *more, *lines[5:]]))
    assert differences(other, third) == []


def test_a_folder_is_read_in_order(files: tuple[Path, Path]) -> None:
    steps = read_steps(files[0].parent)
    assert [(s.title, s.stage) for s in steps] == [("captured", "captured"), ("drop-noops", "canonical")]
    assert [w.type for w in steps[0].nodes[1].weights] == ["f32[4, 4]", "f32[4]"]


def test_what_is_no_dump_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there are no dumps in"):
        read_steps(tmp_path)
    with pytest.raises(InputError, match="there is no dump"):
        read_step(tmp_path / "none.txt")
    (tmp_path / "00-x.txt").write_text("# stage captured\nnonsense\n")
    with pytest.raises(InputError, match="00-x.txt:2: this is no line of a dump: 'nonsense'"):
        read_step(tmp_path / "00-x.txt")
