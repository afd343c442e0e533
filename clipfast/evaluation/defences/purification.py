"""CLIPure-Cos: embeddings turned towards that of the null prompt, which names no class.

Zhang et al., ICLR 2025, arXiv 2502.18176.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

__all__ = ["CLIPURE", "Turns", "purified"]


class Turns(NamedTuple):
    """How embeddings are turned: step_size along a unit vector at right angles to one of unit length."""

    step_size: float
    steps: int


# The published code's, for every data set.
CLIPURE = Turns(step_size=30.0, steps=10)


def purified(embedding: Tensor, null: Tensor, turns: Turns = CLIPURE) -> Tensor:
    """Embeddings after steps up their cosine with the null prompt's: float [N, D] -> [N, D], of unit length.

    null: float [D], of unit length. A step adds step_size times the unit vector along the cosine's gradient
    on the sphere, and goes back onto it. Differentiable as it stands: attackers need no approximation.

    From the published code: the settings, and that there is no momentum. Otherwise than there, each gradient
    is divided by its own length, as in a batch of one, not by the batch's, so that no answer depends on its
    neighbours; and attackers' gradients run through the steps' directions, which there are constants, so that
    each step leaves a thirtieth of a gradient.

    A step turns by arctan(step_size), at 30 by 88 degrees, and from beyond the null prompt the next one turns
    back. So an even number of steps gives an embedding itself where its cosine with the null prompt is above
    1 / sqrt(1 + step_size^2), at 30 above 0.033; of others it makes one beyond the null prompt.
    """
    turned = F.normalize(embedding, dim=1)
    for _ in range(turns.steps):
        cosine = (turned * null).sum(dim=1, keepdim=True)
        direction = F.normalize(null - cosine * turned, dim=1)
        turned = F.normalize(turned + turns.step_size * direction, dim=1)
    return turned
