"""What every attack is: a name, whom it applies to, and a run from a seed to adversarial pixels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..defence.passes import Passes
from ..errors import InputError
from ..inputs.rules import checked_integer
from .eps_ball import check_batch, check_eps, project
from .pass_counter import PassCounter
from .system import System, plain

__all__ = ["Attack", "Attacked", "Target", "Tick", "check_counts"]

Target = System | Callable[[Tensor], Tensor]
Tick = Callable[[], object]


class Attacked(NamedTuple):
    """What an attack made of N images."""

    pixels: Tensor  # float32 [N, 3, H, W], within eps of what came and within [0, 1]
    broken: Tensor  # bool [N]: those that it saw misclassified in many draws of noise in a row; see each
    passes: Passes  # encoder passes an image, on average


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """An attack with its settings. name: as in `make`."""

    name: str
    keeps_pixels: ClassVar[bool] = False  # of another attack, which it is to be given

    def applies(self, system: System) -> bool:  # noqa: ARG002
        """Whether a system has what the attack needs; it is not to be run otherwise."""
        return True

    @property
    @abstractmethod
    def ticks(self) -> int:
        """How often a run calls `progress`, however many images it is given and break early."""

    def run(
        self,
        target: Target,
        pixels: Tensor,
        labels: Tensor,
        *,
        eps: float,
        seed: int,
        batch_size: int | None = None,
        progress: Tick | None = None,
    ) -> Attacked:
        """Attacks images whose budget is eps, l-inf, in [0, 1] pixel units.

        target: a system, or just logits: pixels float32 [N, 3, H, W] -> [N, C], differentiable. pixels:
        [N, 3, H, W], uint8 or float in [0, 1]; N may be 0. labels: int64 [N], which the attack moves away
        from, true or predicted. seed: all that the result depends on beside these; the random numbers of
        torch, numpy and Python are as before afterwards. batch_size: how many images there is room for in one
        call of the target, N where None: with few images, several samples of noise share a call, which
        changes the draws. progress: called `ticks` times. Raises InputError for bad pixels, labels, eps, seed
        and batch_size, and for a system to which the attack does not apply.
        """
        eps = check_eps(eps)
        checked_integer("seed", seed, 2**63)
        if batch_size is not None:
            check_counts(batch_size=batch_size)
        x, y = check_batch(pixels, labels)
        system = target if isinstance(target, System) else plain("logits", target)
        if not self.applies(system):
            raise InputError(f"expected a system to which {self.name!r} applies, got {system.name!r}")
        ticks = _Ticks(self.ticks, progress)
        full = torch.autocast(x.device.type, enabled=False)
        with ExitStack() as stack:
            forked = torch.random.fork_rng([x.device] if x.device.type == "cuda" else [])
            for context in (torch.inference_mode(False), torch.enable_grad(), full, forked):
                stack.enter_context(context)
            torch.manual_seed(seed)
            spent = stack.enter_context(PassCounter(*system.classifiers))
            attacked, broken = (
                self._run(system, x, y, eps, ticks, batch_size or len(x)) if len(x) else (x, y.bool())
            )
        ticks.finish()
        return Attacked(project(attacked.detach(), x, eps), broken, spent.an_image(len(x)))

    @abstractmethod
    def _run(
        self, system: System, pixels: Tensor, labels: Tensor, eps: float, tick: Tick, batch_size: int
    ) -> tuple[Tensor, Tensor]:
        """The adversarial pixels and the broken of at least one image. batch_size: images in a call."""


def check_counts(**counts: int) -> None:
    """Raises InputError for a number of steps and the like that is no integer of at least 1."""
    for name, count in counts.items():
        checked_integer(name, count, 10**6, start=1)


class _Ticks:
    """Calls progress at most, and in the end exactly, so many times."""

    def __init__(self, total: int, progress: Tick | None) -> None:
        self._left, self._progress = total, progress

    def __call__(self) -> None:
        if self._left > 0:
            self._left -= 1
            if self._progress is not None:
                self._progress()

    def finish(self) -> None:
        while self._left > 0:
            self()
