"""Targets from files: the ones that come with vitc, and a user's own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from vitc import targets
from vitc.errors import TargetError

EXPECTED = ["a100", "cpu", "h200", "orin", "orin-nano", "orin-nx", "rtx-3090", "rtx-4090", "rtx-5090", "t4"]
NOT_FIGURES = {"name", "title", "kind", "default_precision", "sources"}


def test_available_names_every_device() -> None:
    assert targets.available() == EXPECTED


@pytest.mark.parametrize("name", EXPECTED)
def test_every_figure_has_a_source(name: str) -> None:
    target = targets.load(name)
    assert target.name == name
    given = {item.name for item in fields(target) if getattr(target, item.name) != item.default} - NOT_FIGURES
    wanted = (given - {"utilisation"}) | {f"utilisation.{item.name}" for item in fields(target.utilisation)}
    assert wanted <= set(target.sources)
    assert all(text.strip() for text in target.sources.values())


@pytest.mark.parametrize("name", [name for name in EXPECTED if name != "cpu"])
def test_rates_agree_with_sm_count_and_clock(name: str) -> None:
    """FP32 is 128 (64 on sm_75, sm_80) lanes x 2 an SM and clock; INT8 is twice FP16 on all of them."""
    target = targets.load(name)
    assert target.sm_count is not None
    assert target.clock_mhz is not None
    assert target.int8_tops is not None
    assert target.fp16_tflops is not None
    lanes = 64 if target.sm in (75, 80) else 128
    assert target.fp32_tflops == pytest.approx(target.sm_count * lanes * 2 * target.clock_mhz * 1e-6, rel=0.02)
    assert target.int8_tops == pytest.approx(2 * target.fp16_tflops, rel=0.001)


@pytest.mark.parametrize("name", [name for name in EXPECTED if name != "cpu"])
def test_shared_memory_agrees_with_the_capability(name: str) -> None:
    """CUDA C++ Programming Guide: a block may opt in to all of an SM's but 1 KiB, on sm_75 to all."""
    target = targets.load(name)
    per_sm = {75: 64, 80: 164, 86: 100, 87: 164, 89: 100, 90: 228, 120: 100}[target.sm or 0] * 1024
    assert target.shared_memory_per_sm == per_sm
    assert target.shared_memory_per_block == (per_sm if target.sm == 75 else per_sm - 1024)


def test_buildable_capabilities_are_those_of_the_installed_rtx() -> None:
    rtx = pytest.importorskip("tensorrt_rtx")
    for name in EXPECTED:
        target = targets.load(name)
        if target.proof_capability is not None:
            assert hasattr(rtx.ComputeCapability, target.proof_capability), name
            assert target.rtx_buildable == hasattr(rtx.ComputeCapability, f"SM{target.sm}"), name


def test_unknown_name() -> None:
    with pytest.raises(TargetError) as raised:
        targets.load("orim")
    message = str(raised.value)
    assert message.startswith("unknown target 'orim'; known: a100, cpu,")
    assert message.endswith("did you mean 'orin'? or a path to a .toml file")


def _write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def _orin_file(folder: Path, old: str = "", new: str = "") -> Path:
    text = (Path(targets.__file__).parent / "orin.toml").read_text(encoding="utf-8")
    assert old in text
    return _write(folder, text.replace(old, new, 1))


def test_own_file_by_path(tmp_path: Path) -> None:
    path = _orin_file(tmp_path, 'name = "orin"', 'name = "my-orin"')
    assert targets.load(path).name == "my-orin"
    assert targets.load(str(path)) == targets.load(path)


def test_own_file_from_a_base(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        'base = "orin"\nname = "slow"\nmemory_gbs = 100.0\n'
        '[utilisation]\nmemory = 0.5\n[sources]\nmemory_gbs = "mine"\n',
    )
    slow, orin = targets.load(path), targets.load("orin")
    assert (slow.name, slow.memory_gbs, slow.utilisation.memory) == ("slow", 100.0, 0.5)
    assert (slow.utilisation.gemm_int8, slow.power_modes) == (orin.utilisation.gemm_int8, orin.power_modes)
    assert slow.sources["memory_gbs"] == "mine"
    assert slow.sources["int8_tops"] == orin.sources["int8_tops"]


def test_changed_figure_does_not_keep_the_base_source(tmp_path: Path) -> None:
    slow = targets.load(
        _write(tmp_path, 'base = "orin"\nname = "slow"\nmemory_gbs = 100.0\nutilisation.memory = 0.5\n')
    )
    assert "memory_gbs" not in slow.sources
    assert "utilisation.memory" not in slow.sources
    assert "utilisation.attention" in slow.sources


def test_base_may_be_a_file_next_to_it(tmp_path: Path) -> None:
    (tmp_path / "first.toml").write_text('base = "orin"\nname = "first"\n', encoding="utf-8")
    assert targets.load(_write(tmp_path, 'base = "first.toml"\nname = "second"\n')).name == "second"


def test_base_in_a_circle(tmp_path: Path) -> None:
    path = _write(tmp_path, 'base = "mine.toml"\nname = "mine"\n')
    with pytest.raises(TargetError, match=r"mine.toml: its base leads back to itself; start from one"):
        targets.load(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "sm_count = 16",
            "sm_cout = 16",
            r"mine.toml: unknown key 'sm_cout'; known: .*; did you mean 'sm_count'\?",
        ),
        (
            "attention = 0.25",
            "atention = 0.25",
            r"unknown key 'utilisation.atention'; known: utilisation.attention",
        ),
        (
            "attention = 0.25\n",
            "",
            r"mine.toml: missing utilisation.attention; allowed keys: utilisation.gemm_int8, ",
        ),
        ("int8_quantum = 64\n", "", r"mine.toml: missing int8_quantum; allowed keys: name, title, kind"),
        (
            "sm_count = 16",
            'sm_count = "16"',
            r"mine.toml: key 'sm_count' must be an integer, not '16' \(str\)",
        ),
        ("sm_count = 16", "sm_count = 16.5", r"key 'sm_count' must be an integer, not 16.5 \(float\)"),
        ("sm_count = 16", "sm_count = true", r"key 'sm_count' must be an integer, not True \(bool\)"),
        (
            "memory_gbs = 204.8",
            'memory_gbs = "fast"',
            r"key 'memory_gbs' must be a number, not 'fast' \(str\)",
        ),
        ('title = "Jetson AGX Orin 64 GB"', "title = 64", r"key 'title' must be a string, not 64 \(int\)"),
        (
            "rtx_buildable = false",
            'rtx_buildable = "no"',
            r"key 'rtx_buildable' must be true or false, not 'no'",
        ),
        ('kind = "tensorrt"', 'kind = "gpu"', r"key 'kind' is 'gpu'; allowed: 'cpu', 'tensorrt'"),
        ('jetpack = ["6.2", "7.2"]', 'jetpack = "6.2"', r"key 'jetpack' must be a list, not '6.2' \(str\)"),
        (
            'jetpack = ["6.2", "7.2"]',
            "jetpack = [6.2]",
            r"key 'jetpack\[0\]' must be a string, not 6.2 \(float\)",
        ),
        ("watts = 50.0", 'watts = "50"', r"key 'power_modes\[1\].watts' must be a number, not '50'"),
        (
            "sm_count = 16",
            "sm_count = 0",
            r"mine.toml: target 'orin' is not valid: sm_count is 0, must be positive",
        ),
    ],
)
def test_refused_file_names_file_key_and_remedy(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        targets.load(_orin_file(tmp_path, old, new))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = \n", "mine.toml' is not valid TOML: "),
        ('base = "orin"\nutilisation = 0.5\n', r"key 'utilisation' must be a table, not 0.5 \(float\)"),
        ("base = 3\n", r"key 'base' must be a string, not 3 \(int\)"),
        ('base = "orim"\n', "unknown target 'orim'"),
        ('base = "orin"\nsources = "none"\n', r"key 'sources' must be a table, not 'none'"),
    ],
)
def test_refused_text(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        targets.load(_write(tmp_path, text))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"nowhere.toml' does not exist; known names: a100, cpu, "):
        targets.load(tmp_path / "nowhere.toml")


def test_unreadable_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TargetError, match="cannot be read"):
        targets.load(tmp_path / "mine.toml")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(TargetError, match="cannot be read"):
        targets.load(tmp_path / "folder.toml")


def test_imports_no_torch() -> None:
    code = (
        "import sys, vitc.cost; from vitc import targets; targets.load('orin');"
        "print(*(name for name in ('torch', 'onnx') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('base = "a\\u0000.toml"', "cannot be read: .* a path holds no NUL"),
        ('base = "a\\u0000"', "unknown target"),
        ("a = " + "[" * 5000, "is not valid TOML: maximum recursion depth"),
        ("base = 'orin'\nname = " + "[" * 100 + "]" * 100, "nests tables deeper than 16"),
        ("base = 'orin'\n[sources." + ".".join("a" * 2000) + "]", "nests tables deeper than 16"),
        ("base = 'orin'\nsm_count = " + "9" * 6000, "is not valid TOML: Exceeds the limit"),
        ("base = 'orin'\nclock_mhz = " + "9" * 400, "'clock_mhz' must be a number up to 9007199254740992"),
        ("base = 'orin'\nclock_mhz = nan", "'clock_mhz' must be a number up to 9007199254740992, not nan"),
        ("base = 'orin'\ntensorrt_min = '" + "9" * 6000 + "'", "tensorrt_min is '9.*must look like '10.3'"),
        ("base = 'orin'\ncompute_capability = '" + "9" * 6000 + ".1'", "must look like '8.7'"),
        ("base = 'orin'\ntitle = \"a\\u009bb\"", "'title' must be text that can be printed"),
        ("#" * ((1 << 20) + 1), "cannot be read: .* has more than 1048576 bytes"),
    ],
)
def test_a_hostile_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(TargetError, match=message):
        targets.load(path)


def test_a_pipe_and_a_name_with_nul_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "own.toml")
    with pytest.raises(TargetError, match="cannot be read: .* is not a plain file"):
        targets.load(tmp_path / "own.toml")
    with pytest.raises(TargetError, match="a path holds no NUL"):
        targets.load("own\0.toml")
