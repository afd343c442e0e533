"""APGD: projected gradient ascent whose step size follows the loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .ascent import Ascended, Looked, ascend, averaged, look_through, streak_of
from .attack import Attack, Tick, check_counts
from .eps_ball import project, random_start
from .losses import Loss, by_label, loss_function
from .restarts import best_of
from .system import System

__all__ = ["AutoPGD"]

_MOMENTUM = 0.25  # the share of the previous step in the next one
# The share of the steps between two checkpoints that must raise the loss for the step size to be kept.
_RISES = 0.75


@dataclass(frozen=True, kw_only=True)
class AutoPGD(Attack):
    """APGD (Croce and Hein, ICML 2020): steps that start at 2 eps and halve when the loss does not rise.

    Gradients go through a system's `attackable`. An image that is broken keeps its pixels if `stops` is
    set. Any other keeps the pixels of the highest loss.

    Attributes:
        loss: The name of the loss that is ascended; the paper has "cross-entropy" and "dlr".
        steps: The number of steps, at least 1.
        samples: Samples of a randomised system's noise in each step, at least 1.
        restarts: How often an image starts, at least 1.
        stops: Whether an image that is broken, as of `streak_of`, keeps its pixels and leaves.

    Raises:
        InputError: If a setting is not as described.
    """

    loss: Loss = "cross-entropy"
    steps: int = 10
    samples: int = 1
    restarts: int = 1
    stops: bool = True

    def __post_init__(self) -> None:
        loss_function(self.loss)
        check_counts(steps=self.steps, samples=self.samples, restarts=self.restarts)

    @property
    def ticks(self) -> int:
        """Number of steps in all restarts."""
        return self.steps * self.restarts

    def _run(
        self, system: System, pixels: Tensor, labels: Tensor, eps: float, tick: Tick, batch_size: int
    ) -> tuple[Tensor, Tensor]:
        look = look_through(system.attackable, labels, by_label(loss_function(self.loss), labels))
        samples = self.samples if system.randomised else 1
        streak = streak_of(samples, self.steps, randomised=system.randomised) if self.stops else 0

        def ascent(rows: Tensor) -> Ascended:
            x = pixels[rows]
            start = random_start(x, eps)
            step = _AutoStep(x, start, eps, self.steps)
            mean = averaged(lambda moved, some: look(moved, rows[some]), samples, batch_size)
            ended = ascend(mean, start, step, steps=self.steps, streak=streak, final_look=True, tick=tick)
            return step.best(ended)

        return best_of([ascent] * self.restarts, pixels)


class _AutoStep:
    """The step rule of one ascent of N images, which also keeps each image's best pixels so far.

    Algorithm 1 of the paper as the Adversarial Robustness Toolbox has it: a rise is one over the best
    loss, not over the last one. That makes the paper's second condition part of its first.
    """

    def __init__(self, pixels: Tensor, start: Tensor, eps: float, steps: int) -> None:
        n = len(pixels)
        self._pixels, self._eps, self._checkpoints, self._taken = pixels, eps, _checkpoints(steps), 0
        self._size = pixels.new_full((n, 1, 1, 1), 2 * eps)
        self._before = start.clone()
        self._best, self._gradient = start.clone(), torch.zeros_like(start)
        self._before_best = start.clone()
        self._loss = pixels.new_full((n,), -torch.inf)
        self._rises = torch.full((n,), -1, device=pixels.device)  # the first look is not a rise

    def __call__(self, attacked: Tensor, looked: Looked, rows: Tensor) -> Tensor:
        """Returns a step; if too few of the last ones rose, half a step from the best pixels."""
        gradient, before = looked.gradient, self._before[rows]
        higher = looked.loss > self._loss[rows]
        self._rises[rows] += higher
        risen = rows[higher]
        self._loss[risen] = looked.loss[higher]
        self._best[risen], self._gradient[risen] = attacked[higher], gradient[higher]
        self._before_best[risen] = before[higher]
        if since := self._checkpoints.get(self._taken):
            halved = self._rises[rows] < _RISES * since
            self._rises[rows] = 0
            self._size[rows[halved]] /= 2
            back = halved[:, None, None, None]
            attacked = torch.where(back, self._best[rows], attacked)
            gradient = torch.where(back, self._gradient[rows], gradient)
            before = torch.where(back, self._before_best[rows], before)
        x = self._pixels[rows]
        ahead = project(attacked + self._size[rows] * gradient.sign(), x, self._eps)
        pull = _MOMENTUM if self._taken else 0.0
        self._before[rows] = attacked
        self._taken += 1
        return project(attacked + (1 - pull) * (ahead - attacked) + pull * (attacked - before), x, self._eps)

    def best(self, ended: Ascended) -> Ascended:
        """Returns the pixels of an image that was broken, and of any other those of its highest loss."""
        pixels = torch.where(ended.broken[:, None, None, None], ended.pixels, self._best)
        return Ascended(pixels, ended.broken, self._loss)


def _checkpoints(steps: int) -> dict[int, int]:
    """Maps the steps taken at each checkpoint to the steps since the one before."""
    shares = [0.0, 0.22]
    while (following := shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06)) <= 1:
        shares.append(following)
    at = [math.ceil(share * steps) for share in shares]
    return {now + 1: now - before for before, now in pairwise(at) if now > before}
