"""What a defended classifier answers, and what it counts."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import InputError

__all__ = ["Prediction", "Stats", "StatsRecorder"]

# Drift differs between models by orders of magnitude, so the bins are logarithmic.
DRIFT_BINS = np.concatenate([[0.0], np.geomspace(1e-4, 1.0, 41), [np.inf]])


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The defended classifier's answer for N images and C classes, detached, on the model's device."""

    logits: Tensor  # float32 [N, C], defended
    undefended_logits: Tensor  # float32 [N, C], plain CLIP's
    embedding: Tensor  # float32 [N, D] f(x + delta), before L2 normalisation
    drift: Tensor  # float32 [N] tau
    countered: Tensor  # bool [N] tau < tau_threshold
    delta: Tensor | None  # float32 [N, 3, H, W] the counter-perturbation in [0, 1] pixel units, if asked for
    classnames: tuple[str, ...]
    calibrated: bool  # whether tau_threshold was calibrated for this model

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def probabilities(self) -> Tensor:
        """softmax(logits): float32 [N, C]."""
        return self.logits.softmax(dim=1)

    @property
    def labels(self) -> Tensor:
        """The most probable class of each image: int64 [N]."""
        return self.logits.argmax(dim=1)

    @property
    def changed(self) -> Tensor:
        """Whether the defence gave another label than plain CLIP: bool [N]."""
        return self.labels != self.undefended_logits.argmax(dim=1)

    def topk(self, k: int = 5) -> list[list[tuple[str, float]]]:
        """For each image its k (or all C) most probable classes, (name, probability), best first.

        Raises InputError for k below 1.
        """
        if k < 1:
            raise InputError(f"k must be at least 1, got {k}")
        best = self.probabilities.topk(min(k, len(self.classnames)), dim=1)
        return [
            [(self.classnames[index], value) for index, value in zip(indices, values, strict=True)]
            for indices, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class Stats:
    """Counts since the classifier was made (or last reset)."""

    images: int
    countered: int
    changed: int
    drift_histogram: NDArray[np.int64]  # int64 [42], counts between drift_edges
    drift_edges: NDArray[np.float64] = field(default_factory=DRIFT_BINS.copy)  # [43], from 0 to infinity


class StatsRecorder:
    """Adds predictions up; safe across threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Back to zero."""
        with self._lock:
            self._counts = np.zeros(3, np.int64)
            self._histogram = np.zeros(len(DRIFT_BINS) - 1, np.int64)

    def add(self, prediction: Prediction) -> None:
        """Counts a prediction's images."""
        flags = torch.stack([prediction.countered, prediction.changed]).sum(dim=1).tolist()
        histogram, _ = np.histogram(prediction.drift.cpu().numpy(), DRIFT_BINS)
        with self._lock:
            self._counts += (len(prediction), *flags)
            self._histogram += histogram

    def read(self) -> Stats:
        """The counts so far."""
        with self._lock:
            images, countered, changed = self._counts.tolist()
            histogram = self._histogram.copy()
        return Stats(images=images, countered=countered, changed=changed, drift_histogram=histogram)

    def __reduce__(self) -> tuple[type[StatsRecorder], tuple[()]]:
        return StatsRecorder, ()
