"""The systems that are compared: how each answers, and how an attacker gets gradients through it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...attacks.system import Answer, Branches, Logits, System, plain
from ...classifier import DefendedClassifier
from ...config import GATES, CounterattackConfig
from ...defence.differentiable import smooth_sign, twice_differentiable
from ...inputs import draws
from ...reference_stages import (
    answer_embedding,
    into_bounds,
    passed_embedding,
    token_agreement,
    transformed,
)
from . import baselines, purification
from .baselines import ET3, NormalisedSteps, blur, within
from .purification import CLIPURE, Turns

__all__ = [
    "anti_adversarial",
    "blurred",
    "countered",
    "energy_lowered",
    "ensembled",
    "hedged",
    "low_passed",
    "noisy",
    "purified",
    "viewed",
]


def blurred(classifier: DefendedClassifier) -> System:
    """Builds plain CLIP behind a 3x3 blur."""
    logits = classifier.differentiable("undefended")
    return plain("3x3 blur", lambda pixels: logits(within(blur(pixels))), classifier)


def low_passed(classifier: DefendedClassifier) -> System:
    """Builds plain CLIP behind the config's transform, a low-pass filter: 1 forward pass."""
    transform, logits = classifier.config.transform, classifier.differentiable("undefended")
    return plain("low-pass", lambda pixels: logits(within(transformed(pixels, transform))), classifier)


def ensembled(classifier: DefendedClassifier) -> System:
    """Builds plain CLIP's mean logits over ten views (TTE, `baselines.ensemble`): 10 forward passes."""
    logits = classifier.differentiable("undefended")
    return plain("TTE", lambda pixels: baselines.ensemble(logits, pixels), classifier)


def viewed(classifier: DefendedClassifier) -> System:
    """Builds plain CLIP's answer from the config's views, or its own without any: a forward pass each."""
    plainly, config = classifier.differentiable("undefended"), classifier.config

    def logits(pixels: Tensor) -> Tensor:
        return plainly.head(answer_embedding(plainly.embed, pixels, config))

    return plain("views", logits, classifier)


def anti_adversarial(classifier: DefendedClassifier, config: CounterattackConfig | None = None) -> System:
    """Builds Anti-adversary, which takes steps + 2 forward and steps backward passes.

    Args:
        classifier: The model.
        config: The budget, in norm "linf", steps and step size of `baselines.anti_adversary`; None for
            the classifier's.
    """
    settings = classifier.config if config is None else config

    def moved(logits: Logits, pixels: Tensor, **options: Any) -> Tensor:
        return baselines.anti_adversary(logits, pixels, settings, **options)

    return _optimising("Anti-adversary", classifier, settings, moved, randomised=False)


def hedged(classifier: DefendedClassifier, config: CounterattackConfig | None = None) -> System:
    """Builds the hedge defence, which takes steps + 1 forward and steps backward passes.

    Args:
        classifier: The model.
        config: The budget, in norm "linf", steps and step size of `baselines.hedge`; None for the
            classifier's.
    """
    settings = classifier.config if config is None else config

    def moved(logits: Logits, pixels: Tensor, noise: Tensor, **options: Any) -> Tensor:
        return baselines.hedge(logits, pixels, noise, settings, **options)

    return _optimising("HD", classifier, settings, moved, randomised=True)


def purified(classifier: DefendedClassifier, turns: Turns = CLIPURE) -> System:
    """Builds CLIPure-Cos, which takes 1 forward pass and has an exact gradient.

    The null prompt is the classifier's templates with no name in them, as in the published code.

    Args:
        classifier: The model.
        turns: The settings of `purification.purified`.
    """
    plainly = classifier.differentiable("undefended")

    def logits(pixels: Tensor) -> Tensor:
        embedding = plainly.embed(pixels).float()
        return plainly.head(purification.purified(embedding, classifier.null_embedding, turns))

    return plain("CLIPure-Cos", logits, classifier)


def energy_lowered(classifier: DefendedClassifier, steps: NormalisedSteps = ET3) -> System:
    """Builds ET3, which takes steps + 1 forward and steps backward passes.

    Args:
        classifier: The model.
        steps: The settings of `baselines.energy_lowered`.
    """

    def moved(logits: Logits, pixels: Tensor, *, create_graph: bool = False, **_: Any) -> Tensor:
        return baselines.energy_lowered(logits, pixels, steps, create_graph=create_graph)

    return _optimising("ET3", classifier, classifier.config, moved, randomised=False)


def noisy(classifier: DefendedClassifier) -> System:
    """Builds plain CLIP behind noise of the config's eps: the baseline "RN" of arXiv 2503.03613."""
    logits = classifier.differentiable("undefended")

    def through(pixels: Tensor, seed: int, first_image: int = 0) -> Tensor:
        return logits(within(pixels + _noise(pixels, classifier.config, seed, first_image)))

    def answer(pixels: Tensor, *, seed: int, first_image: int = 0) -> Answer:
        return Answer(through(pixels, seed, first_image))

    return System(
        name="random noise",
        answer=answer,
        attackable=lambda pixels: through(pixels, draws.torch_seed()),
        randomised=True,
        classifiers=(classifier,),
    )


def countered(classifier: DefendedClassifier, name: str = "TTC") -> System:
    """Builds the system of the defended classifier.

    Attackers hold the counterattack constant (BPDA), or go through its steps if it has any.

    Args:
        classifier: The defended classifier.
        name: What reports call it.
    """
    bpda, config = classifier.differentiable("bpda"), classifier.config

    def answer(pixels: Tensor, *, seed: int, first_image: int = 0) -> Answer:
        found = classifier.predict(pixels, seed=seed, first_image=first_image)
        return Answer(found.logits, *(() if config.is_fixed else (found.drift, found.countered)))

    ungated = System(
        name=name,
        answer=answer,
        attackable=bpda,
        randomised=config.is_randomised(),
        # Without steps there is nothing for an unrolled gradient to go through that BPDA holds constant.
        unrolled=classifier.differentiable("unrolled") if config.steps else None,
        classifiers=(classifier,),
    )
    if config.is_fixed:
        return ungated
    all_countered = classifier.with_config(config.ungated(), on_trial=True)
    passing_draws = GATES[config.gate].draws or config.pass_through == "noise"
    return dataclasses.replace(
        ungated,
        drift=bpda.drift,
        tau_threshold=config.tau_threshold,
        branches=Branches(_passed(classifier), all_countered.differentiable("bpda"), passing_draws),
        classifiers=(classifier, all_countered),
    )


def _passed(classifier: DefendedClassifier) -> Logits:
    """Returns what images that pass the gate are answered with, differentiable."""
    logits, config = classifier.differentiable("undefended"), classifier.config
    if config.pass_through == "clean":
        return logits

    def several(pixels: Tensor) -> Tensor:
        early = None
        if config.early_threshold is not None:
            tokens = partial(classifier.measuring_tower.gate_tokens, config=config)
            with torch.no_grad():
                early = token_agreement(tokens, pixels, config) >= config.early_threshold
        return logits.head(passed_embedding(logits.embed, pixels, config, early=early))

    def noisy(pixels: Tensor) -> Tensor:
        x = pixels.detach()
        return logits(pixels + into_bounds(_noise(x, config, draws.torch_seed(), 0), x))

    return several if config.passes_by_several else noisy


def _optimising(
    name: str,
    classifier: DefendedClassifier,
    config: CounterattackConfig,
    moved: Callable[..., Tensor],
    *,
    randomised: bool,
) -> System:
    """Builds plain CLIP of pixels that a defence moved.

    moved: (logits, pixels, sign=, create_graph=) -> pixels. randomised: whether it takes noise too, after
    the pixels.
    """
    logits = classifier.differentiable("undefended")

    def drawn(pixels: Tensor, seed: int, first_image: int = 0) -> tuple[Tensor, ...]:
        return (_noise(pixels, config, seed, first_image),) if randomised else ()

    def fresh(pixels: Tensor) -> tuple[Tensor, ...]:
        return drawn(pixels, draws.torch_seed())

    def answer(pixels: Tensor, *, seed: int, first_image: int = 0) -> Answer:
        return Answer(logits(moved(logits, pixels, *drawn(pixels, seed, first_image))))

    def held(pixels: Tensor) -> Tensor:
        constant = moved(logits, pixels.detach(), *fresh(pixels))
        return logits(constant + (pixels - pixels.detach()))

    def unrolled(pixels: Tensor) -> Tensor:
        twice = classifier.undefended  # the gradient of the engine cannot be differentiated again
        with twice_differentiable():
            return twice(moved(twice, pixels, *fresh(pixels), sign=smooth_sign, create_graph=True))

    return System(
        name=name,
        answer=answer,
        attackable=held,
        unrolled=unrolled,
        randomised=randomised,
        classifiers=(classifier,),
    )


def _noise(pixels: Tensor, config: CounterattackConfig, seed: int, first_image: int) -> Tensor:
    draw = draws.seeded(seed, first_image, len(pixels), pixels.device)
    return draws.draw_noise(draw, pixels.shape, config)
