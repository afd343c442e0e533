"""One answer of several views of a picture."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import ViewWeights

__all__ = ["mean_of_views"]


def mean_of_views(seen: list[Tensor], weights: ViewWeights) -> Tensor:
    """Computes the mean of the normalised embeddings of K views, [N, D].

    Of one view it is the normalised embedding.

    Args:
        seen: The views' embeddings, K times [N, D].
        weights: "equal", or "agreement": exp(10 cos) of each embedding and the equal mean.
    """
    directions = torch.stack([F.normalize(embedding) for embedding in seen])
    mean = directions.mean(dim=0)
    if weights == "equal":
        return mean
    weight = (10 * torch.cosine_similarity(directions, mean, dim=2)).exp()
    return (weight[:, :, None] * directions).sum(dim=0) / weight.sum(dim=0)[:, None]
