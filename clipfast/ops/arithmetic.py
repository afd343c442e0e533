"""What several operators compute alike."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["exact_dtype", "into_bounds"]


def exact_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype that a tensor is computed with: float32 at least."""
    return torch.promote_types(tensor.dtype, torch.float32)


def into_bounds(d: Tensor, x: Tensor) -> Tensor:
    """d moved so that x + d is in [0, 1]."""
    return d.clamp(min=-x, max=1 - x)
