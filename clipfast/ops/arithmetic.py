"""What several operators compute alike."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["exact_dtype", "into_bounds"]


def exact_dtype(tensor: Tensor) -> torch.dtype:
    """Returns the dtype that a tensor is computed with: its own, or float32 if that is wider."""
    return torch.promote_types(tensor.dtype, torch.float32)


def into_bounds(d: Tensor, x: Tensor) -> Tensor:
    """Returns d moved so that x + d is in [0, 1].

    Args:
        d: A perturbation, of any layout.
        x: Pixels in [0, 1], of the same layout.
    """
    return d.clamp(min=-x, max=1 - x)
