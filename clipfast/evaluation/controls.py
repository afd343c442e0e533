"""Controls: what must hold if an evaluation's attacks are strong."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..attacks.levels import level
from ..measurement.statistics import share
from .budgets import Budget
from .curves import bpda, plain_pgd, share_right
from .defences import Defence
from .results import Control, Results
from .runner import Runner

__all__ = ["controls"]


def controls(runner: Runner, suite: Sequence[Defence], budget: Budget, results: Results) -> list[Control]:
    """Checks whether the curves and the noise of results are what strong attacks leave.

    Args:
        runner: Makes and keeps the parts.
        suite: The defences, undefended CLIP first.
        budget: The budget of the curves.
        results: What was found, its curves included. Controls at one budget take the first of its eps.

    Returns:
        Plain PGD against BPDA without a defence, the two ends of the curves, and random noise as a
        defence.
    """
    undefended, eps = suite[0], results.eps[0]
    found = []
    ours = share_right(runner, undefended, budget, bpda(budget, eps), eps)
    plain = share_right(runner, undefended, budget, plain_pgd(), eps)
    found.append(
        Control(
            "the identity as defence gives plain PGD",
            ours.mean <= plain.mean + _error(plain.mean, plain.n),
            f"{ours.mean:.1%}, plain PGD-10 {plain.mean:.1%} at {level(eps)}",
        )
    )
    for name, points in results.by_eps.items():
        accuracies = [point.accuracy for point in points]
        errors = [_error(point.accuracy, point.n) for point in points]
        rises = [b - a - 2 * e for a, b, e in zip(accuracies, accuracies[1:], errors, strict=False)]
        shown = ", ".join(f"{level(point.x)}: {point.accuracy:.0%}" for point in points)
        found.append(Control(f"{name}: accuracy falls with eps", all(rise <= 0 for rise in rises), shown))
        found.append(
            Control(
                f"{name}: nothing is left at {level(points[-1].x)}",
                accuracies[-1] <= errors[-1],
                f"{accuracies[-1]:.1%} of {points[-1].n}",
            )
        )
    for name, points in results.by_samples.items():
        last, before = points[-1], points[-2]
        gain = before.accuracy - last.accuracy
        error = math.hypot(_error(last.accuracy, last.n), _error(before.accuracy, before.n))
        found.append(
            Control(
                f"{name}: more noise samples take nothing more",
                gain <= 2 * error,
                ", ".join(f"{point.x:g}: {point.accuracy:.0%}" for point in points),
            )
        )
    return [*found, *_noise_is_broken(suite, results)]


def _noise_is_broken(suite: Sequence[Defence], results: Results) -> list[Control]:
    """Checks that random noise alone is no defence: attacked, it holds no more than undefended CLIP."""
    found = []
    for defence, result in zip(suite, results.systems, strict=True):
        if defence.name != "rn":
            continue
        for eps in results.eps:
            key = f"bpda@{level(eps)}"
            if key not in result.right:
                continue
            noisy, plain = (share(r.right[key].all(axis=0)) for r in (result, results.systems[0]))
            found.append(
                Control(
                    f"random noise alone is broken at {level(eps)}",
                    noisy.mean
                    <= plain.mean + 2 * math.hypot(_error(noisy.mean, noisy.n), _error(plain.mean, plain.n)),
                    f"{noisy.mean:.1%}, undefended {plain.mean:.1%}",
                )
            )
    return found


def _error(p: float, n: int) -> float:
    """Returns the standard error of a share of n images, at least 1 / n."""
    return max(math.sqrt(p * (1 - p) / n), 1 / n)
