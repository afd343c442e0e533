"""The pictures that exported files are compared on."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError
from ..inputs import arrays
from ..inputs.tensors import as_unit
from ..models.shapes import draw

__all__ = ["checked_pictures", "drawn_pictures"]


def drawn_pictures(n: int, image_size: tuple[int, int]) -> arrays.Pixels:
    """Drawn ones, uint8 [n, 3, *image_size]."""
    height, width = image_size
    return draw(n, seed=(20, 26, 7), size=max(height, width)).pixels[..., :height, :width]


def checked_pictures(
    images: arrays.Pixels, image_size: tuple[int, int], device: str | torch.device
) -> Tensor:
    """Pixels [N, 3, *image_size] as float32 in [0, 1] on a device. Raises InputError for bad ones or none."""
    checked = arrays.check_pixels(images, image_size)
    if not len(checked):
        raise InputError("expected at least one image to compare answers for, got none")
    return as_unit(torch.tensor(checked, device=device))
