"""Answers that must not be given."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError
from ..inputs.tensors import as_unit, check_range
from ..reference import Counterattacked

__all__ = ["check_usable"]


def check_usable(result: Counterattacked, pixels: Tensor, *, with_clean: bool) -> None:
    """Raises InputError for drifts that are not finite, and for embeddings without a direction.

    pixels: [N, 3, H, W], uint8 or float, of which the error says what is wrong, if that is where it lies.
    with_clean: whether f(x) was asked for of all images.
    """
    embeddings = (result.embedding, result.clean_embedding) if with_clean else (result.embedding,)
    lengths = torch.stack([embedding.norm(dim=1) for embedding in embeddings])
    # NaN compares false, and would else pass as "not below the threshold".
    usable = result.drift.isfinite() & ((lengths > 0) & lengths.isfinite()).all(dim=0)
    if usable.all():
        return
    check_range(as_unit(pixels))
    rows = (~usable).nonzero().flatten().tolist()
    raise InputError(
        f"expected a finite drift and embeddings, got drift {result.drift[rows[:4]].tolist()} for "
        f"images {rows[:4]}: the model gives no usable embedding for them"
    )
