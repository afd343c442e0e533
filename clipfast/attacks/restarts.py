"""Several ascents of the same images, of which each image keeps the best."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from .ascent import Ascended

__all__ = ["best_of"]


def best_of(ascents: Iterable[Callable[[Tensor], Ascended]], pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Runs several ascents and returns each image's best pixels.

    An image that an ascent breaks keeps its pixels, and later ascents are not given it.

    Args:
        ascents: Each takes the rows int64 [n] of the images to ascend, and ascends those.
        pixels: float32 [N, 3, H, W], where the images begin.

    Returns:
        The pixels [N, 3, H, W] of each image's highest loss, and bool [N], whether an ascent broke it.
    """
    attacked, highest = pixels.clone(), pixels.new_full((len(pixels),), -torch.inf)
    broken = torch.zeros(len(pixels), dtype=torch.bool, device=pixels.device)
    rows = torch.arange(len(pixels), device=pixels.device)
    for ascend in ascents:
        if not len(rows):
            break
        ended = ascend(rows)
        better = (ended.loss > highest[rows]) | ended.broken
        attacked[rows[better]], highest[rows[better]] = ended.pixels[better], ended.loss[better]
        broken[rows] = ended.broken
        rows = rows[~ended.broken]
    return attacked, broken
