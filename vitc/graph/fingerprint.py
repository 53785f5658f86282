"""Which program, and which images: twelve digits that tell one from another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch.fx import GraphModule

from vitc.graph.printer import print_graph


def model_fingerprint(module: GraphModule) -> str:
    """Changes with the graph or any weight."""
    state = sorted(module.state_dict().items())
    return digest(print_graph(module.graph), *(name for name, _ in state), tensors=(tensor for _, tensor in state))


def digest(*texts: str, tensors: Iterable[torch.Tensor] = ()) -> str:
    """Changes with any of the texts, or with the dtype, shape or bytes of a tensor."""
    found = hashlib.sha256("\0".join(texts).encode())
    for tensor in tensors:
        found.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()[:12]
