"""The ideal low-pass filter of pictures: what CSR's gate compares a picture with."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["low_pass"]


def low_pass(pixels: Tensor, radius: float) -> Tensor:
    """The pictures without frequencies beyond `radius`: float32 or float64 [N, 3, H, W] -> the same.

    radius: in cycles a picture, of a circle around frequency 0 in the two-dimensional spectrum (CSR, arXiv
    2601.19210). Linear and differentiable. Results overshoot beside sharp edges, straight ones by a tenth of
    their height, and so may leave [0, 1]: clamp what is to be a picture, as the gate does.
    """
    height, width = pixels.shape[-2:]
    row = torch.arange(height, device=pixels.device)
    row = torch.minimum(row, height - row)[:, None]  # the spectrum's second half is of negative frequencies
    column = torch.arange(width // 2 + 1, device=pixels.device)
    kept = row * row + column * column <= radius**2
    return torch.fft.irfft2(torch.fft.rfft2(pixels) * kept, s=(height, width))
