"""What is attacked: a classifier as its users see it, and as an attacker who knows it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from ..classifier import DefendedClassifier

__all__ = ["Answer", "Answers", "Branches", "Logits", "System", "plain", "undefended"]

# Pixels float [N, 3, H, W] in [0, 1] -> logits [N, C], differentiable.
Logits = Callable[[Tensor], Tensor]


class Answer(NamedTuple):
    """A system's answers to N images.

    Attributes:
        logits: [N, C].
        drift: [N], what the gate measures; None without a gate.
        countered: bool [N], the images that the gate countered; None without a gate.
    """

    logits: Tensor
    drift: Tensor | None = None
    countered: Tensor | None = None


class Answers(Protocol):
    """A system as its users see it.

    An image's noise depends on the seed and on first_image plus its row alone, so a list of images may be
    cut into batches anywhere.
    """

    def __call__(self, pixels: Tensor, *, seed: int, first_image: int = 0) -> Answer:
        """Returns the answers to images, which need not be differentiable.

        Args:
            pixels: float [N, 3, H, W] in [0, 1].
            seed: Of the noise.
            first_image: The index of the first of these images in the caller's list.
        """
        ...


class Branches(NamedTuple):
    """What a gated system would answer if all images passed its gate, and if all were countered.

    Attributes:
        passed: The logits of images that pass, differentiable like `System.attackable`.
        countered: The logits of images that are countered, differentiable alike.
        draws: Whether the gate's measure, or the answer to an image that passes, depends on the noise.
    """

    passed: Logits
    countered: Logits
    draws: bool


@dataclass(frozen=True, kw_only=True)
class System:
    """A classifier under test.

    Attributes:
        name: What reports call it.
        answer: What users get.
        attackable: pixels float [N, 3, H, W] in [0, 1] -> logits [N, C], differentiable, for an attacker
            who knows the defence: exact where it has a gradient, else with what it adds held constant
            (BPDA).
        randomised: Whether it draws noise. `attackable` and `unrolled` draw theirs from torch's generator
            at each call.
        unrolled: Like `attackable`, with the gradient through the defence's own steps; None if it has
            none.
        drift: pixels -> what the gate measures [N], differentiable; None without a gate.
        tau_threshold: An image that measures less is countered; None without a gate.
        branches: Both ways of the gate, each like `attackable`; None without a gate.
        classifiers: The classifiers whose towers and engines run all of this, so that passes can be
            counted.
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
        """Returns the logits [N, C] of `answer` with seed 0 to pixels float [N, 3, H, W]."""
        return self.answer(pixels, seed=0).logits


def plain(name: str, logits: Logits, *classifiers: DefendedClassifier) -> System:
    """Builds a system that draws no noise and is differentiable as it is.

    Args:
        name: What reports call it.
        logits: pixels float [N, 3, H, W] in [0, 1] -> [N, C], differentiable. Users and attackers get the
            same.
        *classifiers: The classifiers that it runs on.
    """

    def answer(pixels: Tensor, *, seed: int, first_image: int = 0) -> Answer:  # noqa: ARG001
        return Answer(logits(pixels))

    return System(name=name, answer=answer, attackable=logits, classifiers=classifiers)


def undefended(classifier: DefendedClassifier, name: str = "undefended") -> System:
    """Builds a system of plain CLIP, without the classifier's defence.

    Args:
        classifier: The classifier.
        name: What reports call the system.
    """
    return plain(name, classifier.differentiable("undefended"), classifier)
