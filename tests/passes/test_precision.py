"""to-fp16: every operator gets operands of one type, and the numbers hold."""

from __future__ import annotations

import attention_models as models
import torch
from support import TILED, captured, outputs, through
from torch import Tensor, nn


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
