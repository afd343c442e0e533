"""Timing in rounds in which every column runs once, so that a noisy machine affects all of them alike."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

__all__ = ["Ratio", "interleaved", "ratio", "rounds"]


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """The median of paired ratios, and the quartiles around it.

    Attributes:
        median: The median.
        low: The lower quartile.
        high: The upper quartile.
    """

    median: float
    low: float
    high: float


def rounds(columns: Mapping[str, Callable[[], object]], count: int) -> Iterator[dict[str, float]]:
    """Times every column once a round, in an order drawn anew for each round, after a round of warm-up.

    Args:
        columns: What to run, by name.
        count: Number of rounds, the warm-up aside.

    Yields:
        Seconds by column, of one round. Work on a GPU is waited for.
    """
    names = list(columns)
    order = random.Random(0)
    for index in range(count + 1):
        order.shuffle(names)
        seconds = {}
        for name in names:
            _synchronize()
            start = time.perf_counter()
            columns[name]()
            _synchronize()
            seconds[name] = time.perf_counter() - start
        if index:
            yield seconds


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Ratio:
    """Divides times round by round, and takes the median of the ratios.

    Args:
        numerator: Seconds of each round, at least one.
        denominator: Seconds of the same rounds.

    Raises:
        ValueError: If the two are not of one length.
    """
    ratios = sorted(a / b for a, b in zip(numerator, denominator, strict=True))
    if len(ratios) == 1:
        return Ratio(median=ratios[0], low=ratios[0], high=ratios[0])
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(median=median, low=low, high=high)


def interleaved(runs: Sequence[Callable[[], object]], *, repeats: int = 3) -> list[float]:
    """Times runs that take turns, so that a noisy machine affects all of them alike.

    Args:
        runs: What to run.
        repeats: Number of rounds, the warm-up aside.

    Returns:
        The median seconds of each run, in their order.
    """
    measured = list(rounds({str(i): run for i, run in enumerate(runs)}, repeats))
    return [statistics.median(seconds[str(i)] for seconds in measured) for i in range(len(runs))]


def _synchronize() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
