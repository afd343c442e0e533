"""Pictures of the training mix."""

from __future__ import annotations

import torch
from torch import Tensor

from clipfast.models.shapes import draw

from . import recipe

__all__ = ["drawn"]


def drawn(n: int, seed: int | tuple[int, ...], *, unseen_pairs: bool = False) -> tuple[Tensor, Tensor]:
    """Pixels uint8 [n, 3, S, S] and labels int64 [n]; unseen_pairs: those held out of training, too."""
    pictures = draw(
        n, seed=seed, kinds=recipe.TRAINING_KINDS, unseen_pairs=unseen_pairs, size=recipe.IMAGE_SIZE
    )
    return torch.from_numpy(pictures.pixels), torch.from_numpy(pictures.labels)
