"""Accuracy under BPDA + EOT as curves: over eps, and over noise samples a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..attacks import Attack, make
from ..measurement.statistics import Share, share
from .budgets import Budget
from .defences import Defence
from .results import Point
from .runner import Runner, Shard

__all__ = ["bpda", "curve_work", "curves", "make_curve_parts", "plain_pgd", "share_right"]

Curves = dict[str, list[Point]]  # by a system's name


def curves(runner: Runner, suite: Sequence[Defence], budget: Budget, eps: float) -> tuple[Curves, Curves]:
    """Measures accuracy under BPDA + EOT, of undefended CLIP and of the first defence with a gate.

    Args:
        runner: Makes and keeps the parts.
        suite: The defences, undefended CLIP first.
        budget: The settings of the curves.
        eps: The l-inf budget of the second curves, in [0, 1] pixel units.

    Returns:
        The curves over eps, and those over samples of noise, which only randomised systems have.
    """
    by_eps = {
        defence.system.name: [
            _point(at, share_right(runner, defence, budget, attack, at)) for at, attack in _by_eps(budget)
        ]
        for defence in _compared(suite)
    }
    by_samples = {
        defence.system.name: [
            _point(n, share_right(runner, defence, budget, attack, eps))
            for n, attack in _by_samples(budget, eps)
        ]
        for defence in _compared(suite)
        if defence.system.randomised
    }
    return by_eps, by_samples


def make_curve_parts(
    runner: Runner, suite: Sequence[Defence], budget: Budget, eps: float, shard: Shard | None = None
) -> None:
    """Makes what `curves` and `controls` read, for a shard's chunks; there may be none.

    Args:
        runner: Makes and keeps the parts.
        suite: The defences, undefended CLIP first.
        budget: The settings of the curves.
        eps: The l-inf budget of the curves over samples, in [0, 1] pixel units.
        shard: (i, n), to make only the parts of each n-th chunk, from the i-th on; None for all.
    """
    for rows in runner.chunks(budget.curve_images, shard=shard):
        for defence, attack, at in _asked(suite, budget, eps):
            _right(runner, defence, attack, at, rows)


def curve_work(
    runner: Runner, suite: Sequence[Defence], budget: Budget, eps: float, shard: Shard | None = None
) -> int:
    """Returns how much work a runner ticks for `curves` and `controls`, or for a shard's parts of them.

    Args:
        runner: Makes the parts.
        suite: The defences, undefended CLIP first.
        budget: The settings of the curves.
        eps: The l-inf budget of the curves over samples, in [0, 1] pixel units.
        shard: As of `make_curve_parts`.
    """
    answers = 1
    each = sum(answers + attack.ticks for _, attack, _ in _asked(suite, budget, eps))
    return each * sum(rows.stop - rows.start for rows in runner.chunks(budget.curve_images, shard=shard))


def bpda(budget: Budget, eps: float, **settings: Any) -> Attack:
    """Builds the attack of the curves, whose steps cross the whole budget 2.5 times.

    That follows Madry et al. (ICLR 2018): the step size is 2.5 eps over the number of steps, but at least
    1/255.

    Args:
        budget: The settings of the curves.
        eps: The l-inf budget, in [0, 1] pixel units.
        **settings: Fields of `ProjectedAttack`, in place of the budget's.

    Raises:
        InputError: If the attack does not have or allow a setting.
    """
    step_size = max(1 / 255, 2.5 * eps / budget.curve["steps"])
    return make("bpda", **{**budget.curve, "step_size": step_size, **settings})


def plain_pgd() -> Attack:
    """Builds the attack that `bpda` is compared with on undefended CLIP."""
    return make("pgd-10")


def share_right(runner: Runner, defence: Defence, budget: Budget, attack: Attack, eps: float) -> Share:
    """Returns the share of the curves' images that a defence gets right clean and attacked.

    An image is right if it is so in every round of noise.

    Args:
        runner: Makes and keeps the parts.
        defence: The defence attacked.
        budget: Says how many images the curves are of.
        attack: The attack.
        eps: The l-inf budget, in [0, 1] pixel units.
    """
    rows_of = runner.chunks(budget.curve_images)
    return share(np.concatenate([_right(runner, defence, attack, eps, rows) for rows in rows_of]))


def _asked(suite: Sequence[Defence], budget: Budget, eps: float) -> Iterator[tuple[Defence, Attack, float]]:
    """Yields each attack that is made for `curves` and `controls`: on whom, and with which eps."""
    for defence in _compared(suite):
        yield from ((defence, attack, at) for at, attack in _by_eps(budget))
        if defence.system.randomised:
            yield from ((defence, attack, eps) for _, attack in _by_samples(budget, eps))
    for attack in (bpda(budget, eps), plain_pgd()):
        yield suite[0], attack, eps


def _by_eps(budget: Budget) -> list[tuple[float, Attack]]:
    return [(at, bpda(budget, at)) for at in budget.curve_eps]


def _by_samples(budget: Budget, eps: float) -> list[tuple[int, Attack]]:
    return [(n, bpda(budget, eps, samples=n)) for n in budget.curve_samples]


def _compared(suite: Sequence[Defence]) -> list[Defence]:
    gated = [defence for defence in suite if defence.system.drift is not None]
    return [suite[0], *gated[:1]]


def _point(x: float, found: Share) -> Point:
    return Point(x, found.mean, found.n)


def _right(runner: Runner, defence: Defence, attack: Attack, eps: float, rows: slice) -> NDArray[np.bool_]:
    """Returns which images of a chunk are right clean and attacked, in every round of noise: bool [n]."""
    clean, labels = runner.clean(rows), runner.labels(rows).cpu().numpy()
    alive = (runner.answers(defence, clean, rows.start).labels == labels).all(axis=0)
    right = alive.copy()
    if alive.any():
        made = runner.attacked(attack, defence, clean, rows, torch.from_numpy(alive), eps)
        right[alive] = made.right(labels[alive]).all(axis=0)
    return right
