"""Pictures and perturbations inside a page."""

from __future__ import annotations

import base64
import html
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["MAGNIFIED", "image", "magnified"]

MAGNIFIED = 32


def image(pixels: NDArray[np.uint8], alt: str, *, longest: int | None = None) -> str:
    """Returns an img element that holds a picture.

    Args:
        pixels: uint8 [3, H, W].
        alt: What it shows, in words.
        longest: The longest side that is kept, in pixels. A larger picture is made smaller.
    """
    picture = Image.fromarray(pixels.transpose(1, 2, 0))
    if longest is not None:
        picture.thumbnail((longest, longest))
    file = io.BytesIO()
    picture.save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'


def magnified(perturbation: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Returns a perturbation [3, H, W], in [0, 1] pixel units, 32 times larger around grey, as uint8."""
    return np.rint((0.5 + perturbation * MAGNIFIED).clip(0, 1) * 255).astype(np.uint8)
