"""to-fp16: every operator gets operands of one type, and the numbers hold."""

from __future__ import annotations

import attention_models as models
import torch
from programs import TILED, captured, outputs, through
from torch import Tensor, nn

from vitc.calibration.stream import CalibrationStream


class Gated(nn.Module):
    """EVA-02: one linear, split; the halves are multiplied, one through a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(models.WIDTH, 32), nn.Linear(16, models.WIDTH)
        self.norm = nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, -1)
        return self.down(self.norm(nn.functional.silu(gate)) * value)


def test_split_results_follow_their_own_dtype() -> None:
    x = torch.randn(2, models.TOKENS, models.WIDTH)
    model = Gated()
    program = through(captured(model, x), f"{TILED},to-fp16")
    for node in program.graph.nodes:
        operands = [a.meta["val"] for a in node.all_input_nodes if isinstance(a.meta.get("val"), torch.Tensor)]
        if node.target is torch.ops.aten.mul.Tensor:
            assert len({t.dtype for t in operands}) == 1
    with torch.no_grad():
        torch.testing.assert_close(outputs(program), model(x), atol=5e-3, rtol=5e-3)


def test_inputs_and_outputs_keep_their_dtype_and_gemms_are_half() -> None:
    x = torch.randn(2, models.TOKENS, models.WIDTH)
    program = through(captured(models.Packed(), x), f"{TILED},to-fp16")
    kinds = {n.target: n.meta["val"].dtype for n in program.graph.nodes if n.op == "call_function"}
    assert kinds[torch.ops.aten.linear.default] == kinds[torch.ops.vitc.attention.default] == torch.float16
    assert outputs(program).dtype == torch.float32


class Ranges(nn.Module):
    """`large` overflows FP16, `small` is subnormal in it, `plain` is neither."""

    def __init__(self) -> None:
        super().__init__()
        self.large, self.small, self.plain = (nn.Linear(models.WIDTH, models.WIDTH, bias=False) for _ in range(3))
        with torch.no_grad():
            self.large.weight.mul_(4e5)
            self.small.weight.mul_(1e-4)
            self.plain.weight.mul_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.large(x) * 1e-5 + self.plain(x) + self.small(x * 1e-3).tanh() * 1e4


def test_what_calibration_sees_decides() -> None:
    x = torch.randn(4, models.TOKENS, models.WIDTH)
    model = Ranges()
    stream = CalibrationStream(x, ((models.TOKENS, models.WIDTH),))
    program = through(captured(model, x[:2]).evolve(calibration=stream), f"{TILED},to-fp16")
    kept = {n.meta["nn_module_stack"] and list(n.meta["nn_module_stack"].values())[-1][0]: n.meta["val"].dtype
            for n in program.graph.nodes if n.target is torch.ops.aten.linear.default}  # fmt: skip
    assert kept == {"large": torch.float32, "plain": torch.float16, "small": torch.float32}
    notes = "\n".join(program.journal[-1].notes)
    assert "in large), its result reaches " in notes
    assert "in small), its result stays below " in notes
    assert "the largest magnitude seen in FP16 is" in notes
    with torch.no_grad():
        torch.testing.assert_close(outputs(program, x), model(x), atol=2e-2, rtol=2e-2)
    replayed = through(captured(model, x[:2]).evolve(findings=program.findings), f"{TILED},to-fp16")
    assert replayed.journal[-1].notes == program.journal[-1].notes


def test_without_data_weights_are_looked_at_and_the_report_says_so() -> None:
    model = Ranges()
    with torch.no_grad():
        model.large.weight.mul_(1e3)
    notes = "\n".join(
        through(captured(model, torch.randn(2, models.TOKENS, models.WIDTH)), f"{TILED},to-fp16").journal[-1].notes
    )
    assert "in large), its operand large_weight reaches" in notes
    assert "no range of an FP16 tensor was seen" in notes
