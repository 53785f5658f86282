"""What torch.export or the model itself says when it fails, shortened to its reason, the user's line and a remedy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from vitc.graph.program import BatchRange

_VITC = f"{Path(__file__).parents[1]}/"
_DATA = ("data-dependent", "GuardOnDataDependent", "unbacked")
_SIZES = ("Constraints violated", "ConstraintViolation", "specializ", "marked as dynamic", "dynamic_shapes")


def explain(model: torch.nn.Module, error: Exception, batch: BatchRange | None) -> str:
    """The message for an export that failed on a model that runs."""
    text = str(error)
    return (
        f"torch.export cannot capture {type(model).__name__}{_place(error)}: {_reason(error)}. {_remedy(text, batch)}"
    )


def explain_call(model: torch.nn.Module, error: Exception, given: Any) -> str:
    """The message for a model that does not even run on its example inputs."""
    shown = ", ".join(
        f"{str(t.dtype).removeprefix('torch.')}{list(t.shape)}"
        for t in torch.utils._pytree.tree_leaves(given)
        if isinstance(t, torch.Tensor)
    )
    own = sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()})
    weights = f"; its weights are {', '.join(own)}" if own else ""
    return (
        f"{type(model).__name__} itself fails on its example inputs ({shown}){_place(error)}: {_reason(error)}. "
        f"Pass example_inputs= as forward takes them, in shape and dtype{weights}"
    )


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith("- ")] if lines and "violated" in lines[0] else []
    return (telling or lines or [type(error).__name__])[0].rstrip(".")


def _place(error: Exception) -> str:
    """The last line of the user's own code, if the text or the traceback has one."""
    places = re.findall(r'File "([^"]+)", line (\d+), in (\w+)', str(error))
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append((code.co_filename, str(trace.tb_lineno), code.co_name))
        trace = trace.tb_next
    own = [p for p in places if "/torch/" not in p[0] and not p[0].startswith(("<", _VITC))]
    return f" at {own[-1][0]}:{own[-1][1]} in {own[-1][2]}" if own else ""


def _remedy(text: str, batch: BatchRange | None) -> str:
    if any(word in text for word in _DATA):
        return "Data-dependent control flow must become tensor code (torch.where, torch.cond)."
    if batch is not None and any(word in text for word in _SIZES):
        return (
            "If the batch size is used as a Python number (len(x) is one; x.shape[0] is not), change that, or compile "
            "with batch=None for a fixed size."
        )
    return "Rewrite that line with tensor operations."
