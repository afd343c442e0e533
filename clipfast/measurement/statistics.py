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
    """The range in which a figure lies with 95 % confidence.

    Attributes:
        low: Its lower end.
        high: Its upper end.
    """

    low: float
    high: float


class Share(NamedTuple):
    """The mean of N flags, and its standard error over images.

    Attributes:
        mean: The mean, in [0, 1].
        standard_error: The standard error of the mean.
        n: The number N of images.
    """

    mean: float
    standard_error: float
    n: int


class Difference(NamedTuple):
    """A paired difference of two means over N images.

    Attributes:
        mean: The mean of the differences.
        standard_error: The standard error of the mean.
        interval: Its 95 % bootstrap interval over images.
    """

    mean: float
    standard_error: float
    interval: Interval


def share(right: ArrayLike) -> Share:
    """Computes the mean of N flags with its binomial standard error, sqrt(p (1 - p) / N).

    Args:
        right: Flags, [N].

    Raises:
        InputError: If there are no flags, or they are not [N].
    """
    return over_seeds(np.asarray(right)[None])


def over_seeds(right: ArrayLike) -> Share:
    """Computes the mean of flags over S seeds, with the standard error of the N images' own means.

    An image counts once, however often it was asked: more seeds make its own mean surer, but the sample
    no larger. With one seed this is the binomial error.

    Args:
        right: Flags, [S, N].

    Raises:
        InputError: If there are no flags, or they are not [S, N].
    """
    flags = np.asarray(right, np.float64)
    if flags.ndim != 2 or flags.size == 0:
        raise InputError(f"expected flags [S, N], at least one, got an array of shape {flags.shape}")
    images = flags.mean(axis=0)
    return Share(float(images.mean()), _standard_error(images), len(images))


def wilson(successes: int, n: int) -> Interval:
    """Computes the 95 % score interval of a share (Wilson, JASA 1927), which has a width at 0 and 1, too.

    Args:
        successes: From 0 to n.
        n: Number of trials, at least 1.

    Raises:
        InputError: If successes are not within 0 to n, or n is below 1.
    """
    if not 0 <= successes <= n or n < 1:
        raise InputError(f"expected from 0 to n successes, n at least 1, got {successes} of {n}")
    p, z2 = successes / n, _Z95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n**2))
    return Interval(centre - half if successes else 0.0, centre + half if successes < n else 1.0)


def paired_difference(first: ArrayLike, second: ArrayLike, *, seed: int = 0) -> Difference:
    """Computes the mean of first - second over the same N images.

    The standard error is that of the N differences. For flags it is sqrt(b + c - (b - c)^2 / N) / N, with
    b the number of images that only the first gets right, and c of those that only the second does. The
    interval is the 95 % percentile bootstrap's over images (Efron and Tibshirani, 1993, section 13.3).

    Args:
        first: One system's flags, or their means over seeds, [N].
        second: Another system's, of the same images, [N].
        seed: Seed of the bootstrap; equal seeds give equal intervals.

    Raises:
        InputError: If the shapes differ or are not [N], or N is 0.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape or a.ndim != 1 or len(a) == 0:
        raise InputError(f"expected two arrays [N] of the same images, got shapes {a.shape} and {b.shape}")
    differences = a - b
    # A resample is stored as how often each value was drawn, as there are few values, whatever N is.
    values, counts = np.unique(differences, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(a), counts / len(a), size=RESAMPLES)
    return Difference(
        float(differences.mean()), _standard_error(differences), percentiles(drawn @ values / len(a))
    )


def percentiles(resampled: NDArray[np.float64]) -> Interval:
    """Returns the middle 95 % of a figure's bootstrap resamples."""
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Interval(float(low), float(high))


def right_in_every_case(*right: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Returns which images are right in every case, such as clean and under each attack: bool [N].

    Args:
        right: Flags of each case, bool [N], at least one case.
    """
    return np.logical_and.reduce(right)


def _standard_error(images: NDArray[np.float64]) -> float:
    return float(images.std() / math.sqrt(len(images)))
