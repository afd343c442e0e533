"""Attacks on a gated defence by attackers who know the gate.

They pass the gate, so that nothing is countered; they are countered and misclassified all the same; or
they are misclassified whichever way the gate sends them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from .ascent import Look, Looked, look_through
from .losses import by_label, loss_function
from .projected import ProjectedAttack
from .system import Branches, System

__all__ = ["BothBranches", "GateEvasion"]


# How much a measure may differ between two forms of a tower, relative to the threshold.
_ROUNDING = 1e-4


@dataclass(frozen=True, kw_only=True)
class GateEvasion(ProjectedAttack):
    """Ascends a system's loss and, for images on the wrong side of its gate, the gate's measure.

    While the measure tau < (1 + slack) tau_threshold, weight times the gradient of tau is added to that
    of the loss. Each gradient is divided by its own mean |g|: for signed steps the two have to be of one
    size, and no weight in the units of a loss would fit two models. Through "countered" the measure is
    kept below (1 - slack) tau_threshold instead.

    Through "passed" an image is broken if it is misclassified and passes the gate; through "countered",
    if it is misclassified and countered; through any other, if it is misclassified.

    Attributes:
        weight: The weight of the measure's gradient against that of the loss, above 0.
        slack: How far beyond the threshold an image is pushed, as a share of it, at least 0, so that it
            still passes with the next draw of noise. 1e-4 stands for it if `Branches.draws` is False.

    Raises:
        InputError: If a setting is not as described.
    """

    weight: float = 1.0
    slack: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.weight > 0 and self.slack >= 0):
            raise InputError(f"expected weight > 0 and slack >= 0, got {self.weight!r} and {self.slack!r}")

    def applies(self, system: System) -> bool:
        """Returns whether the system has a gate, and the gradient that the attack goes through."""
        return system.branches is not None and super().applies(system)

    def _looks(self, system: System, pixels: Tensor, labels: Tensor) -> Sequence[Look]:  # noqa: ARG002
        drift, threshold, branches = _gate(system)
        up = self.through != "countered"
        slack = self.slack if branches.draws else _ROUNDING
        wanted = (1 + slack if up else 1 - slack) * threshold
        misled = look_through(self._logits(system), labels, by_label(loss_function(self.loss), labels))

        def look(pixels: Tensor, rows: Tensor) -> Looked:
            looked = misled(pixels, rows)
            x = pixels.detach().requires_grad_()
            tau = drift(x)
            (push,) = torch.autograd.grad(tau.sum(), x)
            tau = tau.detach()
            astray = ((tau < wanted) == up)[:, None, None, None]
            pushed = _of_unit_size(push if up else -push)
            as_meant = {"passed": ~(tau < threshold), "countered": tau < threshold}
            return looked._replace(
                gradient=_of_unit_size(looked.gradient) + self.weight * astray * pushed,
                broken=looked.broken & as_meant.get(self.through, torch.ones_like(looked.broken)),
            )

        return [look] * self.restarts


@dataclass(frozen=True, kw_only=True)
class BothBranches(ProjectedAttack):
    """Ascends the sum of the losses that an image has if it passes the gate and if it is countered.

    An image is broken if it is misclassified the way that the gate sends it. What is ascended does not
    depend on `through`.
    """

    def applies(self, system: System) -> bool:
        """Returns whether the system has a gate."""
        return system.branches is not None

    def _looks(self, system: System, pixels: Tensor, labels: Tensor) -> Sequence[Look]:  # noqa: ARG002
        drift, threshold, branches = _gate(system)
        loss = by_label(loss_function(self.loss), labels)
        looks = [look_through(logits, labels, loss) for logits in branches[:2]]

        def look(pixels: Tensor, rows: Tensor) -> Looked:
            passed, countered = (one(pixels, rows) for one in looks)
            with torch.no_grad():
                held = drift(pixels) < threshold
            return Looked(
                passed.gradient + countered.gradient,
                torch.where(held, countered.loss, passed.loss),
                torch.where(held, countered.broken, passed.broken),
            )

        return [look] * self.restarts


def _gate(system: System) -> tuple[Callable[[Tensor], Tensor], float, Branches]:
    assert system.drift is not None
    assert system.tau_threshold is not None
    assert system.branches is not None
    return system.drift, system.tau_threshold, system.branches


def _of_unit_size(gradient: Tensor) -> Tensor:
    size = gradient.abs().mean(dim=(1, 2, 3), keepdim=True)
    return gradient / (size + torch.finfo(gradient.dtype).tiny)
