"""How well a gate's measure tells attacked pictures from clean ones: countered shares, ROC, AUROC."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from ..measurement.statistics import Interval, percentiles

__all__ = ["Separation", "countered_share", "roc", "separation"]

AUROC_RESAMPLES = 2000

# How a gate fares, by where the interval of its AUROC lies.
SeparationKind = Literal["separates", "does not separate", "is inverted"]


class Separation(NamedTuple):
    """The AUROC of a low measure as a sign of attack, in [0, 1], and its bootstrap interval.

    0.5 is chance; 1 means that every attacked picture measures lower than every clean one, 0 the reverse.
    """

    auroc: float
    interval: Interval

    @property
    def kind(self) -> SeparationKind:
        """ "does not separate" where the interval holds 0.5, "is inverted" where it lies below."""
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
    """The share of drifts [N] strictly below each of T thresholds: float64 [T], as the gate counters."""
    ordered = np.sort(_drifts(drift))
    return np.searchsorted(ordered, np.asarray(thresholds), side="left") / len(ordered)


def roc(clean: ArrayLike, attacked: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The gate's receiver operating characteristic: countered shares of clean and of attacked pictures.

    float64 [T + 1] each, over every threshold that tells two drifts apart, from (0, 0) to (1, 1).
    """
    thresholds = np.unique(np.concatenate([_drifts(clean), _drifts(attacked), [np.inf]]))
    return countered_share(clean, thresholds), countered_share(attacked, thresholds)


def separation(clean: ArrayLike, attacked: ArrayLike, *, seed: int = 0) -> Separation:
    """The AUROC of drifts clean [N] and attacked [M]: how often an attacked picture measures lower than a
    clean one, ties counting half. Its interval, 95 %, is the percentile bootstrap's over pictures, clean and
    attacked drawn apart, which is cautious where they are pairs. Raises InputError for no drifts.
    """
    ordered, others = np.sort(_drifts(clean)), np.sort(_drifts(attacked))
    # Clean drifts up to here are below an attacked one, and from there on above it.
    below, above = (np.searchsorted(ordered, others, side=side) for side in ("left", "right"))

    def area(clean_counts: NDArray[np.int64], attacked_counts: NDArray[np.int64]) -> float:
        """The AUROC of pictures that count several times or not at all."""
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
