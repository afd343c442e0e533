"""Projected gradient attacks: PGD and CW on an undefended model; BPDA, unrolled and targeted on a defence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from ..errors import InputError
from .ascent import Ascended, Look, ascend, averaged, look_through, signed_steps, step_sizes, streak_of
from .attack import Attack, Tick, check_counts
from .eps_ball import check_labels, random_start
from .losses import Loss, by_label, loss_function, targeted_margin
from .restarts import best_of
from .system import Logits, System

__all__ = ["ProjectedAttack", "Targeted", "Through"]

Through = Literal["attackable", "unrolled", "passed", "countered"]


@dataclass(frozen=True, kw_only=True)
class ProjectedAttack(Attack):
    """PGD with random starts through a system: BPDA + EOT, or unrolled, where the system is a defence.

    through: the system's `attackable` (exact where it has a gradient, else BPDA; Athalye et al., ICML 2018),
    its `unrolled`, or one of its gate's `branches`. steps, step_size: see `step_sizes`. samples: of a
    randomised system's noise in each step. restarts: how often an image starts; it keeps the pixels of the
    highest loss. stops: an image that is broken, see `streak_of`, keeps its pixels and leaves.
    Raises InputError for other settings.
    """

    loss: Loss = "cross-entropy"
    through: Through = "attackable"
    steps: int = 10
    step_size: float | None = None
    samples: int = 1
    restarts: int = 1
    stops: bool = True

    def __post_init__(self) -> None:
        loss_function(self.loss)
        if self.through not in get_args(Through):
            raise InputError(f"through must be one of {get_args(Through)}, got {self.through!r}")
        check_counts(steps=self.steps, samples=self.samples, restarts=self.restarts)
        if self.step_size is not None and not 0 < self.step_size <= 1:
            raise InputError(f"step_size is in [0, 1] pixel units and above 0, got {self.step_size!r}")

    def applies(self, system: System) -> bool:
        """Whether the system has the gradient that the attack goes through."""
        return self._through(system) is not None

    @property
    def ticks(self) -> int:
        """The steps of all restarts."""
        return self.steps * self.restarts

    def _through(self, system: System) -> Logits | None:
        if self.through in ("passed", "countered"):
            return None if system.branches is None else getattr(system.branches, self.through)
        return system.unrolled if self.through == "unrolled" else system.attackable

    def _logits(self, system: System) -> Logits:
        logits = self._through(system)
        assert logits is not None
        return logits

    def _looks(self, system: System, pixels: Tensor, labels: Tensor) -> Sequence[Look]:  # noqa: ARG002
        """What each ascent climbs."""
        loss = by_label(loss_function(self.loss), labels)
        return [look_through(self._logits(system), labels, loss)] * self.restarts

    def _draws(self, system: System) -> bool:
        """Whether the noise of the system has a say in what the attack sees."""
        if self.through == "passed" and system.branches is not None:
            return system.branches.draws
        return system.randomised

    def _samples(self, system: System) -> int:
        return self.samples if self._draws(system) else 1

    def _streak(self, system: System) -> int:
        return streak_of(self._samples(system), self.steps, randomised=self._draws(system))

    def _run(
        self, system: System, pixels: Tensor, labels: Tensor, eps: float, tick: Tick, batch_size: int
    ) -> tuple[Tensor, Tensor]:
        looks = self._looks(system, pixels, labels)
        sizes = step_sizes(self.steps, eps, self.step_size)

        def ascent(look: Look, rows: Tensor) -> Ascended:
            x = pixels[rows]
            return ascend(
                averaged(lambda moved, some: look(moved, rows[some]), self._samples(system), batch_size),
                random_start(x, eps),
                signed_steps(x, eps, sizes),
                steps=self.steps,
                streak=self._streak(system) if self.stops else 0,
                final_look=len(looks) > 1,
                tick=tick,
            )

        return best_of([partial(ascent, look) for look in looks], pixels)


@dataclass(frozen=True, kw_only=True)
class Targeted(ProjectedAttack):
    """Towards each of an image's most likely wrong classes in turn, up z_target - z_y (multi-targeted).

    Gowal et al., arXiv 1910.09338. classes: how many; fewer where there are not so many. Likely: by the mean
    of the logits of the images as they come, over `samples`. `loss` is not used.
    """

    classes: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(classes=self.classes)

    @property
    def ticks(self) -> int:
        """The steps towards all classes, in all restarts."""
        return super().ticks * self.classes

    def _looks(self, system: System, pixels: Tensor, labels: Tensor) -> Sequence[Look]:
        logits = self._logits(system)
        with torch.no_grad():
            z = torch.stack([logits(pixels) for _ in range(self._samples(system))]).mean(dim=0)
        check_labels(labels, z)
        z = z.scatter(1, labels[:, None], -torch.inf)
        goals = z.topk(min(self.classes, z.shape[1] - 1), dim=1).indices.unbind(dim=1)
        return [look_through(logits, labels, targeted_margin(labels, goal)) for goal in goals] * self.restarts
