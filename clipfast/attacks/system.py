"""What is attacked: a classifier as its users see it, and as an attacker who knows it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from ..classifier import DefendedClassifier

__all__ = ["Answer", "Answers", "Branches", "Logits", "System", "plain", "undefended"]

Logits = Callable[[Tensor], Tensor]


class Answer(NamedTuple):
    """What a system says of N images."""

    logits: Tensor  # [N, C]
    drift: Tensor | None = None  # [N], where a gate measures it
    countered: Tensor | None = None  # [N] bool


class Answers(Protocol):
    """A system as its users see it: pixels float [N, 3, H, W] in [0, 1] -> its answers.

    What an image's noise is depends on the seed and on first_image + its row alone, so that a list of images
    may be cut anywhere.
    """

    def __call__(self, pixels: Tensor, *, seed: int, first_image: int = 0) -> Answer:
        """Answers without gradients."""
        ...


class Branches(NamedTuple):
    """What a gated system would say of images if all passed its gate, and if all were countered.

    draws: whether what is measured, or what an image that passes is answered from, depends on the noise.
    """

    passed: Logits
    countered: Logits
    draws: bool


@dataclass(frozen=True, kw_only=True)
class System:
    """A classifier under test.

    answer: what users get. attackable: pixels float [N, 3, H, W] in [0, 1] -> logits [N, C], differentiable,
    which knows the defence: exactly where it has a gradient, else with what it adds held constant (BPDA).
    randomised: whether noise is drawn; attackable and unrolled draw theirs from torch's generator at each
    call. unrolled: as attackable, with the gradient through the defence's own steps, or None. drift: pixels
    -> what the gate measures [N], differentiable; tau_threshold: below it an image is countered; branches:
    both ways of the gate, each like `attackable`. These three are None without a gate.
    classifiers: whose towers and engines all of that runs on, so that passes can be counted.
    """

    name: str
    answer: Answers
    attackable: Logits
    randomised: bool = False
    unrolled: Logits | None = None
    drift: Callable[[Tensor], Tensor] | None = None
    tau_threshold: float | None = None
    branches: Branches | None = None
    classifiers: tuple[DefendedClassifier, ...] = ()

    def logits(self, pixels: Tensor) -> Tensor:
        """The logits of `answer`, with the seed 0."""
        return self.answer(pixels, seed=0).logits


def plain(name: str, logits: Logits, *classifiers: DefendedClassifier) -> System:
    """A system without noise, and differentiable as it is: pixels float [N, 3, H, W] -> logits [N, C]."""

    def answer(pixels: Tensor, *, seed: int, first_image: int = 0) -> Answer:  # noqa: ARG001
        return Answer(logits(pixels))

    return System(name=name, answer=answer, attackable=logits, classifiers=classifiers)


def undefended(classifier: DefendedClassifier, name: str = "undefended") -> System:
    """Plain CLIP."""
    return plain(name, classifier.differentiable("undefended"), classifier)
