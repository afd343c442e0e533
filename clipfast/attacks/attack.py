"""The base class of attacks: a name, the systems it applies to, and a run from a seed."""

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

# A system, or just its logits: pixels float32 [N, 3, H, W] in [0, 1] -> [N, C], differentiable.
Target = System | Callable[[Tensor], Tensor]
# Called after each unit of an attack's work, so that progress can be shown.
Tick = Callable[[], object]


class Attacked(NamedTuple):
    """The result of an attack on N images.

    Attributes:
        pixels: float32 [N, 3, H, W], within eps of the pixels attacked and within [0, 1].
        broken: bool [N], the images that the attack saw misclassified. How many draws of noise in a row
            that takes depends on the attack; its class says it.
        passes: Encoder passes an image, on average.
    """

    pixels: Tensor
    broken: Tensor
    passes: Passes


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """An attack with its settings.

    Attributes:
        name: The attack's name, as in `make`.
        keeps_pixels: Whether the attack leaves pixels as they are. It is then given another attack's
            pixels.
    """

    name: str
    keeps_pixels: ClassVar[bool] = False

    def applies(self, system: System) -> bool:  # noqa: ARG002
        """Returns whether a system has what the attack needs; `run` refuses it otherwise."""
        return True

    @property
    @abstractmethod
    def ticks(self) -> int:
        """Number of calls of `progress` in a run, whatever the images and however early they break."""

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
        """Attacks images within an l-inf budget.

        The result depends on the arguments alone. The states of torch's CPU generator and of the
        generator of the pixels' CUDA device are restored afterwards; those of numpy and Python are not
        used.

        Args:
            target: A system, or just its logits: pixels float32 [N, 3, H, W] -> [N, C], differentiable.
            pixels: [N, 3, H, W], uint8 or float in [0, 1]; N may be 0.
            labels: int64 [N], from 0: the labels that the attack moves away from, true or predicted.
            eps: The budget per pixel, in [0, 1] pixel units, above 0 and at most 1.
            seed: An integer from 0 to 2^63 - 1.
            batch_size: How many images there is room for in one call of the target, at least 1; None
                stands for N. With few images, several samples of noise share a call, which changes the
                draws.
            progress: Called `ticks` times.

        Returns:
            The adversarial pixels, which images were broken, and the encoder passes an image.

        Raises:
            InputError: If pixels, labels, eps, seed or batch_size are not as described, if a label is not
                below the number of classes, if there are too few classes for the attack's loss, or if the
                attack does not apply to the system.
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
        """Returns adversarial pixels and `broken` of one image or more; batch_size: images a call."""


def check_counts(**counts: int) -> None:
    """Checks numbers of steps and the like.

    Args:
        **counts: The numbers by their names.

    Raises:
        InputError: If one is not an integer from 1 to 999999.
    """
    for name, count in counts.items():
        checked_integer(name, count, 10**6, start=1)


class _Ticks:
    """Calls progress so many times in the end, and never more often."""

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
