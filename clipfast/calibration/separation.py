"""How well a gate's measure tells attacked pictures from clean ones: countered shares, ROC, AUROC."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from ..measurement.statistics import Interval, percentiles

__all__ = ["Separation", "countered_share", "roc", "separation"]

AUROC_RESAMPLES = 2000

# The result for a gate, by where the interval of its AUROC lies.
SeparationKind = Literal["separates", "does not separate", "is inverted"]


class Separation(NamedTuple):
    """How well a low measure is a sign of attack.

    Attributes:
        auroc: The area under the receiver operating characteristic, in [0, 1]. 0.5 is chance; 1 means
            that every attacked picture measures lower than every clean one, and 0 the reverse.
        interval: Its 95 % bootstrap interval.
    """

    auroc: float
    interval: Interval

    @property
    def kind(self) -> SeparationKind:
        """What the interval of the AUROC shows.

        It is "separates" if the interval lies above 0.5, "is inverted" if it lies below, and "does not
        separate" if it contains 0.5.
        """
        if self.interval.low > 0.5:
            return "separates"
        return "is inverted" if self.interval.high < 0.5 else "does not separate"

    def __str__(self) -> str:
        words = {
            "separates": "the gate separates: attacked pictures measure lower than clean ones",
            "does not separate": "the gate does not separate attacked pictures from clean ones",
            "is inverted": "the gate is inverted: attacked pictures measure higher than clean ones",
        }
        low, high = self.interval
        return f"{words[self.kind]} (AUROC {self.auroc:.3f}, 95 % interval {low:.3f} to {high:.3f})"


def countered_share(drift: ArrayLike, thresholds: ArrayLike) -> NDArray[np.float64]:
    """Returns the share of drifts strictly below each threshold, as the gate counters.

    Args:
        drift: [N], at least one.
        thresholds: [T], or one number.

    Returns:
        float64 [T], or one number, in [0, 1].

    Raises:
        InputError: If there are no drifts, they are not [N], or one is not finite.
    """
    ordered = np.sort(_drifts(drift))
    return np.searchsorted(ordered, np.asarray(thresholds), side="left") / len(ordered)


def roc(clean: ArrayLike, attacked: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the gate's receiver operating characteristic.

    There is a point for each threshold that tells two drifts apart, from (0, 0) to (1, 1).

    Args:
        clean: [N], the drifts of clean pictures.
        attacked: [M], the drifts of attacked pictures.

    Returns:
        The countered shares of clean and of attacked pictures, float64 [T + 1] each for T distinct
        drifts.

    Raises:
        InputError: If there are no drifts of either kind, they are not [N] and [M], or one is not finite.
    """
    thresholds = np.unique(np.concatenate([_drifts(clean), _drifts(attacked), [np.inf]]))
    return countered_share(clean, thresholds), countered_share(attacked, thresholds)


def separation(clean: ArrayLike, attacked: ArrayLike, *, seed: int = 0) -> Separation:
    """Returns the AUROC of drifts, with its interval.

    The AUROC is how often an attacked picture measures lower than a clean one; ties count half. The
    interval, 95 %, is the percentile bootstrap's over pictures. Clean and attacked pictures are drawn
    independently, which is cautious if they are pairs.

    Args:
        clean: [N], the drifts of clean pictures.
        attacked: [M], the drifts of attacked pictures.
        seed: The seed of the bootstrap.

    Raises:
        InputError: If there are no drifts of either kind, they are not [N] and [M], or one is not finite.
    """
    ordered, others = np.sort(_drifts(clean)), np.sort(_drifts(attacked))
    # For each attacked drift: how many clean drifts are below it, and how many are not above it.
    below, above = (np.searchsorted(ordered, others, side=side) for side in ("left", "right"))

    def area(clean_counts: NDArray[np.int64], attacked_counts: NDArray[np.int64]) -> float:
        """The AUROC if each picture counts as often as it was drawn."""
        seen = np.concatenate([[0], np.cumsum(clean_counts)])
        higher = seen[-1] - (seen[below] + seen[above]) / 2
        return float(higher @ attacked_counts / (seen[-1] * attacked_counts.sum()))

    n, m = len(ordered), len(others)
    rng = np.random.default_rng(seed)
    resampled = [
        area(
            np.bincount(rng.integers(n, size=n), minlength=n),
            np.bincount(rng.integers(m, size=m), minlength=m),
        )
        for _ in range(AUROC_RESAMPLES)
    ]
    exact = area(np.ones(n, np.int64), np.ones(m, np.int64))
    return Separation(exact, percentiles(np.array(resampled)))


def _drifts(values: ArrayLike) -> NDArray[np.float64]:
    drifts = np.asarray(values, np.float64)
    if drifts.ndim != 1 or len(drifts) == 0 or not np.isfinite(drifts).all():
        raise InputError(f"expected finite drifts [N], at least one, got an array of shape {drifts.shape}")
    return drifts
