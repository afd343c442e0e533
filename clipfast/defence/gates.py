"""What each gate measures of an image: how f(x) compares with the embedding of a picture beside it.

Other facts about a gate are in `clipfast.config.GATES`. `clipfast.reference_stages` is the plain form.
The gate "none" compares nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .. import ops
from ..config import CounterattackConfig, Gate
from ..ops import Implementation
from ..ops.arithmetic import into_bounds

__all__ = ["MEASURES", "Compared", "Gated", "Measure"]


class Compared(NamedTuple):
    """What a gate may compare x with, in layout.

    Attributes:
        x: The pixels.
        d: d0.
        transformed: Takes x to t(x), both in layout.
    """

    x: Tensor
    d: Tensor
    transformed: Callable[[Tensor], Tensor]


class Gated(NamedTuple):
    """What a gate says of N images.

    Attributes:
        drift: [N], what it measured.
        countered: bool [N], which images it holds back.
        clean: f(x), [N, D], of the tower that measured; None if none did.
        other: f of the picture that x was compared with, [N, D]; None if there was none.
    """

    drift: Tensor
    countered: Tensor
    clean: Tensor | None
    other: Tensor | None


class Measure(NamedTuple):
    """A gate as two functions.

    Attributes:
        beside: Gives the perturbation of x, in layout, that leads to the picture that x is compared with.
        compare: Takes f(x) and f(x + that perturbation), both [N, D], the threshold, and the operators'
            implementation. Gives the drift [N], and which images are countered, bool [N].
    """

    beside: Callable[[Compared, CounterattackConfig], Tensor]
    compare: Callable[[Tensor, Tensor, Tensor, Implementation], tuple[Tensor, Tensor]]


def _drift(
    clean: Tensor, noisy: Tensor, threshold: Tensor, implementation: Implementation
) -> tuple[Tensor, Tensor]:
    return ops.drift_gate(clean.contiguous(), noisy.contiguous(), threshold, implementation=implementation)


def _steadiness(
    clean: Tensor, noisy: Tensor, threshold: Tensor, implementation: Implementation
) -> tuple[Tensor, Tensor]:
    steadiness = 1 / (1 + _drift(clean, noisy, threshold, implementation)[0])
    return steadiness, steadiness < threshold


def _agreement(clean: Tensor, other: Tensor, threshold: Tensor, _: Implementation) -> tuple[Tensor, Tensor]:
    cosine = torch.cosine_similarity(other, clean, dim=1)
    return cosine, cosine < threshold


def _larger_noise(compared: Compared, config: CounterattackConfig) -> Tensor:
    return into_bounds(compared.d * (config.gate_noise / config.eps), compared.x)


def _to_transformed(compared: Compared, _: CounterattackConfig) -> Tensor:
    return compared.transformed(compared.x) - compared.x


MEASURES: dict[Gate, Measure] = {
    "drift": Measure(lambda compared, _: compared.d, _drift),
    "high_noise_drift": Measure(_larger_noise, _steadiness),
    "agreement": Measure(_to_transformed, _agreement),
}
