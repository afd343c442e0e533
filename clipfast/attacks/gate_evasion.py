"""Gate evasion: an attack that also pushes an image over the gate's threshold, past the counterattack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from .ascent import Look, Looked, look_through
from .losses import by_label, loss_function
from .projected import ProjectedAttack
from .system import System

__all__ = ["GateEvasion"]


@dataclass(frozen=True, kw_only=True)
class GateEvasion(ProjectedAttack):
    """Ascends a system's loss and, of images that its gate would hold back, the gate's measure.

    While tau < (1 + slack) tau_threshold, the gradient of tau is added to that of the loss, each over its own
    mean |g|, times weight: with signed steps the two have to be of one size, and no weight in the units of a
    loss would fit two models. slack: passes beyond the threshold, for the noise of the next draw.
    """

    weight: float = 1.0
    slack: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.weight > 0 and self.slack >= 0):
            raise InputError(f"expected weight > 0 and slack >= 0, got {self.weight!r} and {self.slack!r}")

    def applies(self, system: System) -> bool:
        """Whether the system has a gate, and the gradient that the attack goes through."""
        return system.drift is not None and system.tau_threshold is not None and super().applies(system)

    def _looks(self, system: System, pixels: Tensor, labels: Tensor) -> Sequence[Look]:  # noqa: ARG002
        drift, threshold = system.drift, system.tau_threshold
        assert drift is not None
        assert threshold is not None
        wanted = (1 + self.slack) * threshold
        misled = look_through(self._logits(system), labels, by_label(loss_function(self.loss), labels))

        def look(pixels: Tensor, rows: Tensor) -> Looked:
            looked = misled(pixels, rows)
            x = pixels.detach().requires_grad_()
            tau = drift(x)
            (push,) = torch.autograd.grad(tau.sum(), x)
            held = (tau.detach() < wanted)[:, None, None, None]
            return looked._replace(
                gradient=_of_unit_size(looked.gradient) + self.weight * held * _of_unit_size(push)
            )

        return [look] * self.restarts


def _of_unit_size(gradient: Tensor) -> Tensor:
    size = gradient.abs().mean(dim=(1, 2, 3), keepdim=True)
    return gradient / (size + torch.finfo(gradient.dtype).tiny)
