"""How sure a figure is: standard errors, intervals and paired differences of flags, in numpy alone."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError

__all__ = [
    "Difference",
    "Interval",
    "Share",
    "over_seeds",
    "paired_difference",
    "right_in_every_case",
    "share",
    "wilson",
]

RESAMPLES = 10_000
_Z95 = 1.959963984540054  # of the normal distribution, two-sided


class Interval(NamedTuple):
    """Where a figure lies with 95 % confidence."""

    low: float
    high: float


class Share(NamedTuple):
    """The mean of N flags, in [0, 1], and its standard error over images."""

    mean: float
    standard_error: float
    n: int


class Difference(NamedTuple):
    """A paired difference of two means of N images, its standard error and its bootstrap interval."""

    mean: float
    standard_error: float
    interval: Interval


def share(right: ArrayLike) -> Share:
    """The mean of N flags with its binomial standard error, sqrt(p (1 - p) / N).

    Raises InputError for no flags.
    """
    return over_seeds(np.asarray(right)[None])


def over_seeds(right: ArrayLike) -> Share:
    """The mean over S seeds of flags [S, N]; the standard error is that of the N images' means.

    An image counts once, however often it was asked: seeds make its own mean surer, not the sample larger.
    With one seed it is the binomial error. Raises InputError for no flags, or flags of another rank.
    """
    flags = np.asarray(right, np.float64)
    if flags.ndim != 2 or flags.size == 0:
        raise InputError(f"expected flags [S, N], at least one, got an array of shape {flags.shape}")
    images = flags.mean(axis=0)
    return Share(float(images.mean()), _standard_error(images), len(images))


def wilson(successes: int, n: int) -> Interval:
    """The 95 % score interval of a share (Wilson, JASA 1927), which does not shrink to nothing at 0 and 1.

    Raises InputError where successes are not within 0 to n, n at least 1.
    """
    if not 0 <= successes <= n or n < 1:
        raise InputError(f"expected from 0 to n successes, n at least 1, got {successes} of {n}")
    p, z2 = successes / n, _Z95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n**2))
    return Interval(centre - half if successes else 0.0, centre + half if successes < n else 1.0)


def paired_difference(first: ArrayLike, second: ArrayLike, *, seed: int = 0) -> Difference:
    """The mean of first - second, two systems' flags (or means over seeds) [N] on the same N images.

    The standard error is that of the N differences; for flags, sqrt(b + c - (b - c)^2 / N) / N with b and c
    the images that only the first and only the second gets right. The interval is the percentile bootstrap's
    over images (Efron and Tibshirani, 1993, section 13.3), 95 %; equal seeds give equal intervals. Raises
    InputError for shapes that differ or are not [N], N at least 1.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape or a.ndim != 1 or len(a) == 0:
        raise InputError(f"expected two arrays [N] of the same images, got shapes {a.shape} and {b.shape}")
    differences = a - b
    # A resample is how often each value was drawn: few values, whatever N is.
    values, counts = np.unique(differences, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(a), counts / len(a), size=RESAMPLES)
    return Difference(
        float(differences.mean()), _standard_error(differences), percentiles(drawn @ values / len(a))
    )


def percentiles(resampled: NDArray[np.float64]) -> Interval:
    """The middle 95 % of a figure's bootstrap resamples."""
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Interval(float(low), float(high))


def right_in_every_case(*right: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which images are right in every case: clean, under transfer, under the adaptive attack. bool [N]."""
    return np.logical_and.reduce(right)


def _standard_error(images: NDArray[np.float64]) -> float:
    return float(images.std() / math.sqrt(len(images)))
