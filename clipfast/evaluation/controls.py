"""Curves over eps and over noise samples, and checks that the attacks are strong."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..attacks import Attack, make
from ..attacks.levels import level
from ..measurement.statistics import Share, share
from .budgets import Budget
from .defences import Defence
from .parts import Runner, Shard
from .results import Control, Point, Results

__all__ = ["checked", "curve_work", "curves", "make_curve_parts"]

Curves = dict[str, list[Point]]


def curves(runner: Runner, suite: Sequence[Defence], budget: Budget, eps: float) -> tuple[Curves, Curves]:
    """Accuracy under BPDA + EOT by eps, and at one eps by samples of noise.

    Of undefended CLIP and the first defence with a gate.
    """
    by_eps = {
        defence.system.name: [
            _point(at, _share(runner, defence, budget, attack, at)) for at, attack in _by_eps(budget)
        ]
        for defence in _compared(suite)
    }
    by_samples = {
        defence.system.name: [
            _point(n, _share(runner, defence, budget, attack, eps)) for n, attack in _by_samples(budget, eps)
        ]
        for defence in _compared(suite)
        if defence.system.randomised
    }
    return by_eps, by_samples


def make_curve_parts(
    runner: Runner, suite: Sequence[Defence], budget: Budget, eps: float, shard: Shard | None = None
) -> None:
    """Makes what `curves` and `checked` read, of a shard's chunks, of which there may be none."""
    for rows in runner.chunks(budget.curve_images, shard=shard):
        for defence, attack, at in _asked(suite, budget, eps):
            _right(runner, defence, attack, at, rows)


def curve_work(
    runner: Runner, suite: Sequence[Defence], budget: Budget, eps: float, shard: Shard | None = None
) -> int:
    """How much a runner ticks for `curves` and `checked`, or for a shard's parts of them."""
    answers = 1
    each = sum(answers + attack.ticks for _, attack, _ in _asked(suite, budget, eps))
    return each * sum(rows.stop - rows.start for rows in runner.chunks(budget.curve_images, shard=shard))


def checked(runner: Runner, suite: Sequence[Defence], budget: Budget, results: Results) -> list[Control]:
    """What must hold where attacks are strong."""
    undefended, eps = suite[0], results.eps[0]
    controls = []
    ours = _share(runner, undefended, budget, _bpda(budget, eps), eps)
    plain = _share(runner, undefended, budget, make("pgd-10"), eps)
    controls.append(
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
        controls.append(Control(f"{name}: accuracy falls with eps", all(rise <= 0 for rise in rises), shown))
        controls.append(
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
        controls.append(
            Control(
                f"{name}: more noise samples take nothing more",
                gain <= 2 * error,
                ", ".join(f"{point.x:g}: {point.accuracy:.0%}" for point in points),
            )
        )
    return [*controls, *_noise_is_broken(suite, results)]


def _noise_is_broken(suite: Sequence[Defence], results: Results) -> list[Control]:
    """Random noise alone is no defence: adaptively attacked, it holds no more than undefended CLIP."""
    controls = []
    for defence, result in zip(suite, results.systems, strict=True):
        if defence.name != "rn":
            continue
        for eps in results.eps:
            key = f"bpda@{level(eps)}"
            if key not in result.right:
                continue
            noisy, plain = (share(r.right[key].all(axis=0)) for r in (result, results.systems[0]))
            controls.append(
                Control(
                    f"random noise alone is broken at {level(eps)}",
                    noisy.mean
                    <= plain.mean + 2 * math.hypot(_error(noisy.mean, noisy.n), _error(plain.mean, plain.n)),
                    f"{noisy.mean:.1%}, undefended {plain.mean:.1%}",
                )
            )
    return controls


def _asked(suite: Sequence[Defence], budget: Budget, eps: float) -> Iterator[tuple[Defence, Attack, float]]:
    """Each attack that is made for `curves` and `checked`: on whom, and with which budget."""
    for defence in _compared(suite):
        yield from ((defence, attack, at) for at, attack in _by_eps(budget))
        if defence.system.randomised:
            yield from ((defence, attack, eps) for _, attack in _by_samples(budget, eps))
    for attack in (_bpda(budget, eps), make("pgd-10")):
        yield suite[0], attack, eps


def _by_eps(budget: Budget) -> list[tuple[float, Attack]]:
    return [(at, _bpda(budget, at)) for at in budget.curve_eps]


def _by_samples(budget: Budget, eps: float) -> list[tuple[int, Attack]]:
    return [(n, _bpda(budget, eps, samples=n)) for n in budget.curve_samples]


def _compared(suite: Sequence[Defence]) -> list[Defence]:
    gated = [defence for defence in suite if defence.system.drift is not None]
    return [suite[0], *gated[:1]]


def _point(x: float, found: Share) -> Point:
    return Point(x, found.mean, found.n)


def _bpda(budget: Budget, eps: float, **settings: Any) -> Attack:
    # Steps that cross the whole budget two and a half times (Madry et al., ICLR 2018).
    step_size = max(1 / 255, 2.5 * eps / budget.curve["steps"])
    return make("bpda", **{**budget.curve, "step_size": step_size, **settings})


def _share(runner: Runner, defence: Defence, budget: Budget, attack: Attack, eps: float) -> Share:
    """Of the first images, those that are right clean and attacked."""
    rows_of = runner.chunks(budget.curve_images)
    return share(np.concatenate([_right(runner, defence, attack, eps, rows) for rows in rows_of]))


def _right(runner: Runner, defence: Defence, attack: Attack, eps: float, rows: slice) -> NDArray[np.bool_]:
    """Which images of a chunk are right clean and attacked, in every round of noise: bool [n]."""
    clean, labels = runner.clean(rows), runner.labels(rows).cpu().numpy()
    alive = (runner.answers(defence, clean, rows.start).labels == labels).all(axis=0)
    right = alive.copy()
    if alive.any():
        made = runner.attacked(attack, defence, clean, rows, torch.from_numpy(alive), eps)
        right[alive] = made.right(labels[alive]).all(axis=0)
    return right


def _error(p: float, n: int) -> float:
    """The standard error of a share of n images, at least what one of them makes."""
    return max(math.sqrt(p * (1 - p) / n), 1 / n)
