"""The check that keeps unusable answers from being given."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError
from ..inputs.tensors import as_unit, check_range
from ..reference import Counterattacked

__all__ = ["check_usable"]


def check_usable(result: Counterattacked, pixels: Tensor, *, with_clean: bool) -> None:
    """Checks that drifts are finite, and that embeddings have a direction.

    Args:
        result: What the defence found of N images.
        pixels: [N, 3, H, W], uint8 or float. If these are what is wrong, the error says so.
        with_clean: Whether f(x) was asked for of all images, and is checked too.

    Raises:
        InputError: If a drift is not finite, or the length of an embedding is 0 or not finite.
    """
    embeddings = (result.embedding, result.clean_embedding) if with_clean else (result.embedding,)
    lengths = torch.stack([embedding.norm(dim=1) for embedding in embeddings])
    # NaN compares false, so that it would pass as "not below the threshold".
    usable = result.drift.isfinite() & ((lengths > 0) & lengths.isfinite()).all(dim=0)
    if usable.all():
        return
    check_range(as_unit(pixels))
    rows = (~usable).nonzero().flatten().tolist()
    raise InputError(
        f"expected a finite drift and embeddings, got drift {result.drift[rows[:4]].tolist()} for "
        f"images {rows[:4]}: the model gives no usable embedding for them"
    )
