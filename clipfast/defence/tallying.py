"""Counts predictions where they are, so that counting waits for no device."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ..prediction import DRIFT_BINS, Prediction

__all__ = ["tally"]


def tally(prediction: Prediction[Tensor]) -> Tensor:
    """Counts a prediction on its device, as `clipfast.prediction.tally` does.

    Returns:
        int64 [45]: images, countered and changed ones, and the drift histogram of `Stats`.
    """
    drift = prediction.drift.double().clamp(min=0)
    edges = _edges(drift.device)
    bins = (torch.bucketize(drift, edges, right=True) - 1).clamp(max=len(edges) - 2)
    histogram = bins.new_zeros(len(edges) - 1).index_add(0, bins, torch.ones_like(bins))
    flags = torch.stack([torch.ones_like(prediction.countered), prediction.countered, prediction.changed])
    return torch.cat([flags.sum(dim=1), histogram])


@functools.cache
def _edges(device: torch.device) -> Tensor:
    return torch.from_numpy(DRIFT_BINS).to(device)
