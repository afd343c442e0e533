"""Projected gradient attacks: PGD and CW on the undefended model, BPDA, unrolled and targeted on a defence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...errors import InputError
from ...validation_rules import checked_integer
from ..systems import System
from .ascent import Look, ascend, look_through, step_sizes
from .attack import Attack, Tick
from .budget import check_labels, random_start
from .losses import Loss, by_label, loss_function, targeted_margin

__all__ = ["ProjectedAttack", "Targeted"]


@dataclass(frozen=True, kw_only=True)
class ProjectedAttack(Attack):
    """PGD with random starts through a system: BPDA + EOT, or unrolled, where the system is a defence.

    through: the system's `attackable` (exact where it has a gradient, else BPDA; Athalye et al., ICML 2018),
    or its `unrolled`. steps, step_size: see `step_sizes`. samples: of a randomised system's noise in each
    step. restarts: how often an image starts; it keeps the pixels of the highest loss. stops: an image that
    is misclassified in every sample of a step keeps its pixels and leaves.
    Raises InputError for other settings.
    """

    loss: Loss = "cross-entropy"
    through: Literal["attackable", "unrolled"] = "attackable"
    steps: int = 10
    step_size: float | None = None
    samples: int = 1
    restarts: int = 1
    stops: bool = True

    def __post_init__(self) -> None:
        loss_function(self.loss)
        if self.through not in ("attackable", "unrolled"):
            raise InputError(f"through must be 'attackable' or 'unrolled', got {self.through!r}")
        for name in ("steps", "samples", "restarts"):
            checked_integer(name, getattr(self, name), 10**6, start=1)
        if self.step_size is not None and not 0 < self.step_size <= 1:
            raise InputError(f"step_size is in [0, 1] pixel units and above 0, got {self.step_size!r}")

    def applies(self, system: System) -> bool:
        """Whether the system has the gradient that the attack goes through."""
        return self.through == "attackable" or system.unrolled is not None

    @property
    def ticks(self) -> int:
        """The steps of all restarts."""
        return self.steps * self.restarts

    def _logits(self, system: System) -> Callable[[Tensor], Tensor]:
        return (
            system.attackable if self.through == "attackable" or system.unrolled is None else system.unrolled
        )

    def _looks(self, system: System, pixels: Tensor, labels: Tensor, samples: int) -> Sequence[Look]:  # noqa: ARG002
        """The look of each ascent: the restarts."""
        return [
            look_through(self._logits(system), labels, by_label(loss_function(self.loss), labels))
        ] * self.restarts

    def _run(
        self, system: System, pixels: Tensor, labels: Tensor, eps: float, tick: Tick
    ) -> tuple[Tensor, Tensor]:
        samples = self.samples if system.randomised else 1
        looks = self._looks(system, pixels, labels, samples)
        attacked, highest = pixels.clone(), pixels.new_full((len(pixels),), -torch.inf)
        broken = torch.zeros_like(labels, dtype=torch.bool)
        rows = torch.arange(len(pixels), device=pixels.device)
        for look in looks:
            ended = ascend(
                lambda x, some, look=look, rows=rows: look(x, rows[some]),
                pixels[rows],
                random_start(pixels[rows], eps),
                eps=eps,
                sizes=step_sizes(self.steps, eps, self.step_size),
                samples=samples,
                stops=self.stops,
                judges=len(looks) > 1,
                tick=tick,
            )
            better = ended.loss > highest[rows]
            if self.stops:
                better |= ended.broken
            attacked[rows[better]], highest[rows[better]] = ended.pixels[better], ended.loss[better]
            broken[rows] |= ended.broken
            if self.stops:
                rows = rows[~ended.broken]
            if not len(rows):
                break
        return attacked, broken


@dataclass(frozen=True, kw_only=True)
class Targeted(ProjectedAttack):
    """Towards each of an image's most likely wrong classes in turn, up z_target - z_y (multi-targeted).

    Gowal et al., arXiv 1910.09338. classes: how many; fewer where there are not so many. Likely: by the mean
    of the logits of the images as they come, over `samples`. loss is not used.
    """

    classes: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_integer("classes", self.classes, 10**6, start=1)

    @property
    def ticks(self) -> int:
        """The steps towards all classes, in all restarts."""
        return super().ticks * self.classes

    def _looks(self, system: System, pixels: Tensor, labels: Tensor, samples: int) -> Sequence[Look]:
        logits = self._logits(system)
        with torch.no_grad():
            z = torch.stack([logits(pixels) for _ in range(samples)]).mean(dim=0)
        check_labels(labels, z)
        z.scatter_(1, labels[:, None], -torch.inf)
        goals = z.topk(min(self.classes, z.shape[1] - 1), dim=1).indices.unbind(dim=1)
        return [look_through(logits, labels, targeted_margin(labels, goal)) for goal in goals] * self.restarts
