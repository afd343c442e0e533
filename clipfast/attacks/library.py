"""Attacks of the Adversarial Robustness Toolbox (ART), on what a system answers: APGD and Square."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from ..errors import names_extra
from ..inputs.rules import checked_integer
from .ascent import Ascended, look_through, streak_of
from .attack import Attack, Tick, check_counts
from .losses import Loss, by_label, loss_function
from .restarts import best_of
from .system import System

__all__ = ["AutoPGD", "Square"]


@dataclass(frozen=True, kw_only=True)
class AutoPGD(Attack):
    """APGD of ART (Croce and Hein, ICML 2020): steps that start at 2 eps and halve where the loss stays.

    Through a system's `attackable`. loss: "cross-entropy" or "dlr". steps, samples, restarts, stops: as of
    `ProjectedAttack`. An image that is not broken, or does not stop, keeps the pixels of the highest loss,
    where ART gives its last ones, or its random start.
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
        """The looks of all restarts: at each start and after each step."""
        return (self.steps + 1) * self.restarts

    def _run(
        self, system: System, pixels: Tensor, labels: Tensor, eps: float, tick: Tick, most: int
    ) -> tuple[Tensor, Tensor]:
        art = _estimators("the APGD attack")
        look = look_through(system.attackable, labels, by_label(loss_function(self.loss), labels))
        samples = self.samples if system.randomised else 1

        def ascent(rows: Tensor) -> Ascended:
            watched = art.Watched(
                lambda x, some: look(x, rows[some]),
                pixels[rows],
                labels[rows],
                samples=samples,
                streak=streak_of(samples, self.steps, randomised=system.randomised) if self.stops else 0,
                randomised=system.randomised,
                most=most,
                tick=tick,
            )
            attack = art.AutoProjectedGradientDescent(
                watched,
                eps=eps,
                eps_step=2 * eps,
                max_iter=self.steps,
                nb_random_init=1,
                batch_size=len(rows),
                verbose=False,
            )
            attack.generate(pixels[rows].cpu().numpy(), labels[rows].cpu().numpy())
            return watched.ascended()

        return best_of([ascent] * self.restarts, pixels)


@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """Square attack of ART (Andriushchenko et al., ECCV 2020) on a system's answers, as on a black box.

    queries: how often it asks about an image, at least 3, each time with fresh noise; an image leaves when
    it is answered wrongly. What was asked once is remembered, where ART asks up to three times.
    """

    queries: int = 100

    def __post_init__(self) -> None:
        checked_integer("queries", self.queries, 10**6, start=3)

    @property
    def ticks(self) -> int:
        """The queries."""
        return self.queries

    def _run(
        self,
        system: System,
        pixels: Tensor,
        labels: Tensor,
        eps: float,
        tick: Tick,
        most: int,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        art = _estimators("the Square attack")
        asked = art.Asked(system, pixels, labels, tick=tick)
        height, width = pixels.shape[-2:]
        attack = art.SquareAttack(
            asked,
            eps=eps,
            max_iter=self.queries - 2,  # the first two are of the image and of its stripes
            # ART fails where a square does not fit into the picture.
            p_init=min(0.8, (min(height, width) - 1) ** 2 / (height * width)),
            batch_size=len(pixels),
            verbose=False,
        )
        attacked = attack.generate(pixels.cpu().numpy(), labels.cpu().numpy())
        return torch.from_numpy(attacked).to(pixels.device), asked.broken(attacked)


def _estimators(what: str) -> ModuleType:
    try:
        from . import estimators
    except ModuleNotFoundError as error:
        raise names_extra(what, error) from error
    return estimators
