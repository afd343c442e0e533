"""What a defended classifier answers, and what it counts."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

__all__ = ["Prediction", "Stats", "StatsRecorder"]

# numpy's or torch's: what differs between them is asked of the array, and torch is not imported.
Array = TypeVar("Array", bound=Any)

# Drift differs between models by orders of magnitude, so the bins are logarithmic.
DRIFT_BINS = np.concatenate([[0.0], np.geomspace(1e-4, 1.0, 41), [np.inf]])


@dataclass(frozen=True, kw_only=True)
class Prediction(Generic[Array]):
    """A defended classifier's answer for N images and C classes.

    Torch tensors of `DefendedClassifier`, detached, on the model's device; numpy arrays of an exported one.
    """

    logits: Array  # float32 [N, C], defended
    undefended_logits: Array  # float32 [N, C], plain CLIP's; NaN where they were not asked for or needed
    embedding: (
        Array | None
    )  # float32 [N, D] what was classified, before L2 normalisation; few exports give it
    drift: Array  # float32 [N] what the gate measured: tau, or another gate's
    countered: Array  # bool [N] drift < tau_threshold
    delta: Array | None  # float32 [N, 3, H, W] the counter-perturbation in [0, 1] pixel units, if asked for
    classnames: tuple[str, ...]
    calibrated: bool  # whether tau_threshold was calibrated for this model

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def probabilities(self) -> Array:
        """softmax(logits): float32 [N, C]."""
        if not isinstance(self.logits, np.ndarray):
            return self.logits.softmax(dim=1)
        powers = np.exp(self.logits - self.logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    @property
    def labels(self) -> Array:
        """The most probable class of each image: int64 [N]."""
        return self.logits.argmax(1)

    @property
    def changed(self) -> Array:
        """Whether the defence gave another label than plain CLIP, where that was asked: bool [N]."""
        return self.undefended_known & (self.labels != self.undefended_logits.argmax(1))

    @property
    def undefended_known(self) -> Array:
        """Whether plain CLIP was asked: bool [N]."""
        return self.undefended_logits[:, 0] == self.undefended_logits[:, 0]  # not NaN

    def topk(self, k: int = 5) -> list[list[tuple[str, float]]]:
        """For each image its k (or all C) most probable classes, (name, probability), best first.

        Raises InputError for k below 1.
        """
        if k < 1:
            raise InputError(f"k must be at least 1, got {k}")
        probabilities = _as_numpy(self.probabilities)
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
        values = np.take_along_axis(probabilities, best, axis=1)
        return [
            [(self.classnames[index], value) for index, value in zip(*row, strict=True)]
            for row in zip(best.tolist(), values.tolist(), strict=True)
        ]


def _as_numpy(array: Any) -> NDArray[Any]:
    return array if isinstance(array, np.ndarray) else array.cpu().numpy()


@dataclass(frozen=True, kw_only=True)
class Stats:
    """Counts since the classifier was made (or last reset).

    placed: of an exported file how many nodes of its graph run on each device or provider.
    """

    images: int
    countered: int
    changed: int
    drift_histogram: NDArray[np.int64]  # int64 [42], counts between drift_edges; a cosine below 0 as 0
    drift_edges: NDArray[np.float64] = field(default_factory=DRIFT_BINS.copy)  # [43], from 0 to infinity
    placed: dict[str, int] = field(default_factory=dict)


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

    def add(self, prediction: Prediction[Any]) -> None:
        """Counts a prediction's images."""
        flags = int(prediction.countered.sum()), int(prediction.changed.sum())
        histogram, _ = np.histogram(_as_numpy(prediction.drift).clip(min=0), DRIFT_BINS)
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
