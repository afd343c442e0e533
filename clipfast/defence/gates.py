"""What each gate measures of an image: how f(x) compares with the embedding of a picture beside it.

What else is to be known of a gate stands in `clipfast.config.GATES`; `clipfast.reference` is the plain form.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .. import ops
from ..config import CounterattackConfig, Gate
from ..inputs.noise import Noise
from ..inputs.tensors import as_unit
from ..ops import Implementation
from .low_pass import low_pass

__all__ = ["MEASURES", "Gated", "Measure"]


class Gated(NamedTuple):
    """What a gate says of N images."""

    drift: Tensor  # [N] tau, or the low-pass gate's cosine
    countered: Tensor  # [N] bool: drift < threshold
    clean: Tensor  # [N, D] f(x) of the tower that measured


class Measure(NamedTuple):
    """A gate in two functions.

    beside: pixels [N, 3, H, W], the defence's noise and its settings -> what is added to the pixels.
    compare: f(x) and f(x + that), [N, D], the threshold, and the operators' implementation -> drift [N], and
    which images are countered, bool [N].
    """

    beside: Callable[[Tensor, Noise[Tensor], CounterattackConfig], Noise[Tensor]]
    compare: Callable[[Tensor, Tensor, Tensor, Implementation], tuple[Tensor, Tensor]]


def _the_noise(_: Tensor, noise: Noise[Tensor], __: CounterattackConfig) -> Noise[Tensor]:
    return noise


def _drift(
    clean: Tensor, noisy: Tensor, threshold: Tensor, implementation: Implementation
) -> tuple[Tensor, Tensor]:
    return ops.drift_gate(clean.contiguous(), noisy.contiguous(), threshold, implementation=implementation)


def _what_low_pass_takes(pixels: Tensor, _: Noise[Tensor], config: CounterattackConfig) -> Noise[Tensor]:
    # Seen as a perturbation, the filtered picture is kept in [0, 1] and put into layout as noise is.
    picture = as_unit(pixels)
    return Noise(low_pass(picture, config.radius) - picture)


def _cosine(clean: Tensor, other: Tensor, threshold: Tensor, _: Implementation) -> tuple[Tensor, Tensor]:
    cosine = torch.cosine_similarity(other, clean, dim=1)
    return cosine, cosine < threshold


MEASURES: dict[Gate, Measure] = {
    "drift": Measure(_the_noise, _drift),
    "low_pass": Measure(_what_low_pass_takes, _cosine),
}
