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
    """Draws the pictures to compare on, the same at every call.

    Args:
        n: The number of pictures.
        image_size: (height, width) of the pictures.

    Returns:
        uint8 [n, 3, H, W].
    """
    height, width = image_size
    return draw(n, seed=(20, 26, 7), size=max(height, width)).pixels[..., :height, :width]


def checked_pictures(
    images: arrays.Pixels, image_size: tuple[int, int], device: str | torch.device
) -> Tensor:
    """Checks pictures and moves them to a device.

    Args:
        images: [N, 3, H, W], uint8, or float in [0, 1].
        image_size: (height, width) that the pictures must have.
        device: The device of the result.

    Returns:
        float32 [N, 3, H, W] in [0, 1].

    Raises:
        InputError: If there are no pictures, or they have another type, shape or dtype, or are outside
            [0, 1], NaN or infinite.
    """
    checked = arrays.check_pixels(images, image_size)
    if not len(checked):
        raise InputError("expected at least one image to compare answers for, got none")
    return as_unit(torch.tensor(checked, device=device))
