"""What a defended classifier answers, and what it counts."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

__all__ = ["DRIFT_BINS", "Prediction", "Stats", "StatsRecorder", "tally"]

# A numpy array or a torch tensor. Code asks the array which one it is, so that torch is not imported.
Array = TypeVar("Array", bound=Any)

# Drift differs between models by orders of magnitude, so the bins are logarithmic.
DRIFT_BINS = np.concatenate([[0.0], np.geomspace(1e-4, 1.0, 41), [np.inf]])


@dataclass(frozen=True, kw_only=True)
class Prediction(Generic[Array]):
    """A defended classifier's answer for N images and C classes.

    `DefendedClassifier` gives torch tensors, detached and on the model's device. Exported classifiers
    give numpy arrays.

    Attributes:
        logits: float32 [N, C], defended.
        undefended_logits: float32 [N, C], plain CLIP's. NaN for images for which they were neither asked
            for nor needed.
        embedding: float32 [N, D], what was classified, before L2 normalisation. None from most exported
            files.
        drift: float32 [N], what the gate measured: tau, or another gate's measure.
        countered: bool [N], drift < tau_threshold.
        delta: float32 [N, 3, H, W], the counter-perturbation in [0, 1] pixel units. None unless asked
            for.
        classnames: The names of the C classes.
        calibrated: Whether tau_threshold was calibrated for this model.
    """

    logits: Array
    undefended_logits: Array
    embedding: Array | None
    drift: Array
    countered: Array
    delta: Array | None
    classnames: tuple[str, ...]
    calibrated: bool

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def probabilities(self) -> Array:
        """The classes' probabilities, softmax(logits): float32 [N, C]."""
        if not isinstance(self.logits, np.ndarray):
            return self.logits.softmax(dim=1)
        powers = np.exp(self.logits - self.logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    @property
    def labels(self) -> Array:
        """The index of each image's most probable class: int64 [N]."""
        return self.logits.argmax(1)

    @property
    def changed(self) -> Array:
        """Whether the defence gave another label than plain CLIP, False if unknown: bool [N]."""
        return self.undefended_known & (self.labels != self.undefended_logits.argmax(1))

    @property
    def undefended_known(self) -> Array:
        """Whether plain CLIP's logits are known, and not NaN: bool [N]."""
        return self.undefended_logits[:, 0] == self.undefended_logits[:, 0]  # not NaN

    def topk(self, k: int = 5) -> list[list[tuple[str, float]]]:
        """Returns each image's most probable classes, best first.

        Args:
            k: How many classes; all C if there are fewer.

        Returns:
            A list of N lists of pairs, the name of a class and its probability.

        Raises:
            InputError: If k is below 1.
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
    """Counts since the classifier was made or its counts were last reset.

    Attributes:
        images: Images classified.
        countered: Images that the gate held back.
        changed: Images to which the defence gave another label than plain CLIP, of those for which that
            is known.
        drift_histogram: int64 [42], counts between the drift_edges. Negative cosines count as 0.
        drift_edges: float64 [43], from 0 to infinity.
        placed: Of an exported file, how many nodes of its graph run on each device or provider.
    """

    images: int
    countered: int
    changed: int
    drift_histogram: NDArray[np.int64]
    drift_edges: NDArray[np.float64] = field(default_factory=DRIFT_BINS.copy)
    placed: dict[str, int] = field(default_factory=dict)


def tally(prediction: Prediction[NDArray[Any]]) -> NDArray[np.int64]:
    """Counts an exported classifier's prediction.

    Returns:
        int64 [45]: images, countered and changed ones, and the drift histogram of `Stats`.
    """
    histogram, _ = np.histogram(prediction.drift.clip(min=0), DRIFT_BINS)
    return np.array([len(prediction), prediction.countered.sum(), prediction.changed.sum(), *histogram])


class StatsRecorder:
    """Adds up tallies; safe across threads. Copies and unpickled recorders start from zero."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Sets the counts back to zero."""
        with self._lock:
            self._sums: dict[Any, Any] = {}  # by device, where they stay until they are read

    def add(self, counts: Any) -> None:
        """Adds the int64 [45] of `tally`, a numpy array or a torch tensor."""
        device = getattr(counts, "device", None)
        with self._lock:
            self._sums[device] = self._sums[device] + counts if device in self._sums else counts

    def read(self) -> Stats:
        """Returns the counts so far."""
        with self._lock:
            each = [_as_numpy(counts) for counts in self._sums.values()]
        images, countered, changed, *histogram = np.sum([np.zeros(len(DRIFT_BINS) + 2, int), *each], axis=0)
        return Stats(
            images=int(images),
            countered=int(countered),
            changed=int(changed),
            drift_histogram=np.array(histogram, np.int64),
        )

    def __reduce__(self) -> tuple[type[StatsRecorder], tuple[()]]:
        return StatsRecorder, ()
