"""Projected gradient attacks: PGD, CW; on defences BPDA + EOT, unrolled and targeted."""

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

# Which differentiable form of a system gradients go through: fields of `System`, or of its `branches`.
Through = Literal["attackable", "unrolled", "passed", "countered"]


@dataclass(frozen=True, kw_only=True)
class ProjectedAttack(Attack):
    """PGD with random starts through a system; BPDA + EOT, or unrolled, if the system is a defence.

    An image that is misclassified in as many steps in a row as `streak_of` says is broken.

    Attributes:
        loss: The name of the loss that is ascended.
        through: What gradients go through. "attackable" is the system's `attackable`, exact where that
            has a gradient, else BPDA (Athalye et al., ICML 2018); "unrolled" is its `unrolled`; "passed"
            and "countered" are those of its gate's `branches`.
        steps: The number of steps, at least 1.
        step_size: The size of every step, in [0, 1] pixel units, above 0 and at most 1; None for steps
            that fall from eps. See `step_sizes`.
        samples: Samples of a randomised system's noise in each step, at least 1.
        restarts: How often an image starts, at least 1. It keeps the pixels of the highest loss.
        stops: Whether an image that is broken keeps its pixels and leaves.

    Raises:
        InputError: If a setting is not as described.
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
        """Returns whether the system has the gradient that the attack goes through."""
        return self._through(system) is not None

    @property
    def ticks(self) -> int:
        """Number of steps in all restarts."""
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
        """Returns what each ascent climbs."""
        loss = by_label(loss_function(self.loss), labels)
        return [look_through(self._logits(system), labels, loss)] * self.restarts

    def _draws(self, system: System) -> bool:
        """Returns whether what the attack sees depends on the system's noise."""
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
    """Moves an image towards each of its most likely wrong classes in turn, up z_target - z_y.

    This is the multi-targeted attack of Gowal et al. (arXiv 1910.09338). Classes are ordered by the mean
    logits of the images as they come, over `samples` draws of noise. `loss` is not used.

    Attributes:
        classes: How many classes are tried, at least 1; all wrong ones if there are fewer.

    Raises:
        InputError: If a setting is not as described.
    """

    classes: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(classes=self.classes)

    @property
    def ticks(self) -> int:
        """Number of steps towards all classes, in all restarts."""
        return super().ticks * self.classes

    def _looks(self, system: System, pixels: Tensor, labels: Tensor) -> Sequence[Look]:
        logits = self._logits(system)
        with torch.no_grad():
            z = torch.stack([logits(pixels) for _ in range(self._samples(system))]).mean(dim=0)
        check_labels(labels, z)
        z = z.scatter(1, labels[:, None], -torch.inf)
        goals = z.topk(min(self.classes, z.shape[1] - 1), dim=1).indices.unbind(dim=1)
        return [look_through(logits, labels, targeted_margin(labels, goal)) for goal in goals] * self.restarts
