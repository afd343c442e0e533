"""The systems that are compared: how each answers, and how an attacker gets gradients through it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from .. import draws
from ..classifier import DefendedClassifier
from .baselines import blur, random_noise

__all__ = ["Answer", "Answers", "System", "blurred", "countered", "noisy", "undefended"]


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


@dataclass(frozen=True, kw_only=True)
class System:
    """A classifier under test.

    answer: what users get. attackable: pixels float [N, 3, H, W] in [0, 1] -> logits [N, C], differentiable,
    which knows the defence: exactly where it has a gradient, else with what it adds held constant (BPDA).
    randomised: whether noise is drawn; attackable and unrolled draw theirs from torch's generator at each
    call. unrolled: as attackable, with the gradient through the defence's own steps, or None. drift: pixels
    -> tau [N], differentiable, and tau_threshold, below which an image is countered; None without a gate.
    """

    name: str
    answer: Answers
    attackable: Callable[[Tensor], Tensor]
    randomised: bool = False
    unrolled: Callable[[Tensor], Tensor] | None = None
    drift: Callable[[Tensor], Tensor] | None = None
    tau_threshold: float | None = None

    def logits(self, pixels: Tensor) -> Tensor:
        """The logits of `answer`, with the seed 0."""
        return self.answer(pixels, seed=0).logits


def undefended(classifier: DefendedClassifier, name: str = "undefended") -> System:
    """Plain CLIP."""
    return _plain(name, classifier.undefended)


def blurred(classifier: DefendedClassifier) -> System:
    """Plain CLIP behind a 3x3 blur."""
    return _plain("3x3 blur", lambda pixels: classifier.undefended(blur(pixels).clamp(0, 1)))


def noisy(classifier: DefendedClassifier) -> System:
    """Plain CLIP behind random noise of the counterattack's eps (the baseline "RN" of arXiv 2503.03613)."""
    eps, config = classifier.config.eps, classifier.config

    def answer(pixels: Tensor, *, seed: int, first_image: int = 0) -> Answer:
        draw = draws.seeded(seed, first_image, len(pixels), pixels.device)
        noise = draws.draw_noise(draw, pixels.shape, config)
        return Answer(classifier.undefended((pixels + noise).clamp(0, 1)))

    return System(
        name="random noise",
        answer=answer,
        attackable=lambda pixels: classifier.undefended(random_noise(pixels, eps=eps)),
        randomised=True,
    )


def countered(classifier: DefendedClassifier, name: str = "TTC") -> System:
    """The defended classifier; attackers hold the counterattack constant (BPDA), or go through its steps."""
    bpda = classifier.differentiable("bpda")

    def answer(pixels: Tensor, *, seed: int, first_image: int = 0) -> Answer:
        prediction = classifier.predict(pixels, seed=seed, first_image=first_image)
        return Answer(prediction.logits, prediction.drift, prediction.countered)

    return System(
        name=name,
        answer=answer,
        attackable=bpda,
        randomised=True,
        unrolled=classifier.differentiable("unrolled"),
        drift=bpda.drift,
        tau_threshold=classifier.config.tau_threshold,
    )


def _plain(name: str, logits: Callable[[Tensor], Tensor]) -> System:
    """A system without noise, and differentiable as it is."""

    def answer(pixels: Tensor, *, seed: int, first_image: int = 0) -> Answer:  # noqa: ARG001
        return Answer(logits(pixels))

    return System(name=name, answer=answer, attackable=logits)
