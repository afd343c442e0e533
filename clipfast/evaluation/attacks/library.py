"""Attacks of the Adversarial Robustness Toolbox (ART), on what a system answers: APGD and Square."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...errors import InputError
from ...validation_rules import checked_integer
from ..systems import System
from .attack import Attack, Tick
from .losses import Loss, loss_function

__all__ = ["AutoPGD", "Square"]


@dataclass(frozen=True, kw_only=True)
class AutoPGD(Attack):
    """APGD of ART (Croce and Hein, ICML 2020): step sizes that halve where the loss stops rising.

    loss: "cross-entropy" or "dlr". steps, samples, restarts, stops: as of `ProjectedAttack`; an image that
    does not stop keeps the pixels of the highest loss. Through a defence's `attackable`.
    """

    loss: Loss = "cross-entropy"
    steps: int = 10
    samples: int = 1
    restarts: int = 1
    stops: bool = True

    def __post_init__(self) -> None:
        loss_function(self.loss)
        for name in ("steps", "samples", "restarts"):
            checked_integer(name, getattr(self, name), 10**6, start=1)

    @property
    def ticks(self) -> int:
        """The looks of all restarts: at the start and after each step."""
        return (self.steps + 1) * self.restarts

    def _run(
        self, system: System, pixels: Tensor, labels: Tensor, eps: float, tick: Tick
    ) -> tuple[Tensor, Tensor]:
        raise InputError("not there yet")


@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """Square attack of ART (Andriushchenko et al., ECCV 2020), on a system's answers: a black box.

    queries: how often it asks about an image, each time with fresh noise; an image stops when its answer is
    wrong. Given a plain function of logits, it asks that.
    """

    queries: int = 100

    def __post_init__(self) -> None:
        checked_integer("queries", self.queries, 10**6, start=1)

    @property
    def ticks(self) -> int:
        """The queries."""
        return self.queries

    def _run(
        self, system: System, pixels: Tensor, labels: Tensor, eps: float, tick: Tick
    ) -> tuple[Tensor, Tensor]:
        raise InputError("not there yet")
