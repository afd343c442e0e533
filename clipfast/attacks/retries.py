"""Best of several retries: a randomised defence is asked again until it errs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..inputs.draws import torch_seed
from .attack import Attack, Tick, check_counts
from .eps_ball import check_labels
from .system import System

__all__ = ["Retries"]


@dataclass(frozen=True, kw_only=True)
class Retries(Attack):
    """Asks a system again with fresh noise; an image is broken if any answer is wrong.

    The pixels, which another attack made, stay as they are, and eps is not used. An image leaves at its
    first wrong answer. The system is a black box: no gradients are taken.

    Attributes:
        keeps_pixels: True, as it leaves pixels as they are.
        times: How often an image is asked about, at least 1.

    Raises:
        InputError: If `times` is not as described.
    """

    keeps_pixels: ClassVar[bool] = True
    times: int = 10

    def __post_init__(self) -> None:
        check_counts(times=self.times)

    def applies(self, system: System) -> bool:
        """Returns whether the system draws noise; one that does not would give the same answer again."""
        return system.randomised

    @property
    def ticks(self) -> int:
        """Number of answers that are asked for, `times`."""
        return self.times

    def _run(
        self,
        system: System,
        pixels: Tensor,
        labels: Tensor,
        eps: float,  # noqa: ARG002
        tick: Tick,
        batch_size: int,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        broken = torch.zeros_like(labels, dtype=torch.bool)
        for _ in range(self.times):
            rows = (~broken).nonzero().flatten()
            if not len(rows):
                break
            with torch.no_grad():
                logits = system.answer(pixels[rows], seed=torch_seed()).logits
            check_labels(labels[rows], logits)
            broken[rows] = logits.argmax(dim=1) != labels[rows]
            tick()
        return pixels, broken
