"""What any defence must beat: changes to the pixels that cost no gradient."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["blur", "random_noise"]


def blur(pixels: Tensor) -> Tensor:
    """A 3x3 mean filter, edges replicated: float [N, 3, H, W] -> the same. Differentiable."""
    return F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), kernel_size=3, stride=1)


def random_noise(pixels: Tensor, *, eps: float, generator: torch.Generator | None = None) -> Tensor:
    """pixels + U(-eps, eps), clamped to [0, 1] (the baseline "RN" of arXiv 2503.03613)."""
    noise = torch.empty(pixels.shape).uniform_(-eps, eps, generator=generator)
    return (pixels + noise.to(pixels.device)).clamp(0, 1)
