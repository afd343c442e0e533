"""The systems that are compared: how each answers, and how an attacker gets gradients through it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..classifier import DefendedClassifier
from .baselines import blur, random_noise

__all__ = ["EOT_SAMPLES", "System", "blurred", "countered", "noisy", "undefended"]

EOT_SAMPLES = 4


@dataclass(frozen=True)
class System:
    """A classifier under test.

    logits, attackable: pixels float [N, 3, H, W] in [0, 1] -> logits [N, C]; the second is differentiable
    and knows the defence. samples: gradients that an attack averages a step (EOT), 1 where nothing is drawn.
    """

    name: str
    logits: Callable[[Tensor], Tensor]
    attackable: Callable[[Tensor], Tensor]
    samples: int = 1


def undefended(classifier: DefendedClassifier, name: str = "undefended") -> System:
    """Plain CLIP."""
    return System(name, classifier.undefended, classifier.undefended)


def blurred(classifier: DefendedClassifier) -> System:
    """Plain CLIP behind a 3x3 blur."""

    def logits(pixels: Tensor) -> Tensor:
        return classifier.undefended(blur(pixels).clamp(0, 1))

    return System("3x3 blur", logits, logits)


def noisy(classifier: DefendedClassifier) -> System:
    """Plain CLIP behind random noise of the counterattack's eps (the baseline "RN" of arXiv 2503.03613)."""

    def logits(pixels: Tensor) -> Tensor:
        return classifier.undefended(random_noise(pixels, eps=classifier.config.eps))

    return System("random noise", logits, logits, EOT_SAMPLES)


def countered(classifier: DefendedClassifier, name: str = "TTC", *, seed: int = 0) -> System:
    """The defended classifier; attackers hold the counterattack constant (BPDA)."""
    return System(
        name,
        lambda pixels: classifier.predict(pixels, seed=seed).logits,
        classifier.differentiable("bpda"),
        EOT_SAMPLES,
    )
