"""CLIPure-Cos: embeddings turned towards that of the null prompt, which names no class.

The source is Zhang et al., ICLR 2025, arXiv 2502.18176.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

__all__ = ["CLIPURE", "Turns", "purified"]


class Turns(NamedTuple):
    """How embeddings are turned.

    Attributes:
        step_size: The length of a step along a unit vector, at right angles to an embedding of unit
            length.
        steps: The number of steps.
    """

    step_size: float
    steps: int


# The published code's, for every data set.
CLIPURE = Turns(step_size=30.0, steps=10)


def purified(embedding: Tensor, null: Tensor, turns: Turns = CLIPURE) -> Tensor:
    """Turns embeddings in steps that raise their cosine with the null prompt's.

    A step adds step_size times the unit vector along the cosine's gradient on the sphere, and goes back
    onto the sphere. The function is differentiable as it stands, so attackers need no approximation.

    The settings are those of the published code, and there is no momentum, as in that code. Two things
    differ. Here, each gradient is divided by its own length, as in a batch of one, so that no answer
    depends on its neighbours; there, by the batch's. Here, attackers' gradients run through the
    directions of the steps; there, these are constants, so that each step leaves a thirtieth of a
    gradient.

    A step turns by arctan(step_size), which is 88 degrees at 30, and from beyond the null prompt the next
    step turns back. Let the limit be 1 / sqrt(1 + step_size^2), which is 0.033 at 30. An even number of
    steps returns an embedding to where it was if its cosine with the null prompt is above that limit. Any
    other ends beyond the null prompt.

    Args:
        embedding: float [N, D].
        null: The null prompt's embedding, float [D], of unit length.
        turns: The size and number of the steps.

    Returns:
        float [N, D], of unit length.
    """
    turned = F.normalize(embedding, dim=1)
    for _ in range(turns.steps):
        cosine = (turned * null).sum(dim=1, keepdim=True)
        direction = F.normalize(null - cosine * turned, dim=1)
        turned = F.normalize(turned + turns.step_size * direction, dim=1)
    return turned
