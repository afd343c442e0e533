"""The ascent of images that a gate held back, from the activations that the probe saved.

x and perturbations are in the encoder's layout. `clipfast.reference` is the plain form.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..config import CounterattackConfig
from ..encoders.base import Encoder, Saved
from ..ops import Implementation

__all__ = ["Probe", "counterattack"]


class Probe(NamedTuple):
    """What is known of N images when the gate is read.

    Attributes:
        x: The pixels, in layout.
        base: What f(x + d) takes of x (`Encoder.project`).
        d: d0, in layout.
        clean: f(x), [N, D].
        noisy: f(x + d0), [N, D].
        saved: The activations of f(x + d0).
        other: f(t(x)), [N, D], if the gate made it.
    """

    x: Tensor
    base: Tensor
    d: Tensor
    clean: Tensor
    noisy: Tensor
    saved: Saved
    other: Tensor | None = None


def counterattack(
    encoder: Encoder, probed: Probe, config: CounterattackConfig, implementation: Implementation = "auto"
) -> Tensor:
    """Computes delta = sum_k w_k d_k, with w_k = exp(beta k) / sum_j exp(beta j), k = 0..steps.

    The formula is TTC's (arXiv 2503.03613, section 3).

    Args:
        encoder: The image tower, f.
        probed: What is known of the N images; `other` is needed for the objective "towards".
        config: Settings of the counterattack, with at least one step.
        implementation: Of the operators between passes, see `clipfast.ops`.

    Returns:
        delta in layout, [N, ...], in [0, 1] pixel units.
    """
    x, base, d, clean, embedding, saved, other = probed
    goal = other if config.objective == "towards" else None
    velocity = None
    exponents = [math.exp(config.beta * (k - config.steps)) for k in range(config.steps + 1)]
    weights = [e / sum(exponents) for e in exponents]
    total = None
    for k in range(1, config.steps + 1):
        cotangent, scale = _cotangent(embedding, clean, goal, implementation)
        gradient = encoder.input_gradient(saved, cotangent).contiguous()
        # With momentum, d is the point ahead, d_(k-1) + momentum v_(k-1). A step from it leads to
        # d_(k-1) + v_k.
        d, total = ops.ascend(
            x,
            d,
            gradient,
            total,
            scale,
            weight_before=weights[0],
            weight=weights[k],
            eps=config.eps,
            step_size=config.step_size,
            norm=config.norm,
            last=k == config.steps,
            implementation=implementation,
        )
        if k < config.steps:
            if config.momentum:
                velocity = _velocity(velocity, gradient, scale, config, implementation)
                d = d + config.momentum * velocity
            saved = ()  # freed before the next pass makes as much
            embedding, saved = encoder.forward(base, d)
    assert total is not None
    return total


def _cotangent(
    moved: Tensor, clean: Tensor, goal: Tensor | None, implementation: Implementation
) -> tuple[Tensor, Tensor]:
    """The gradient of the objective to f(x + d), [N, D], divided by a scale for each image, [N]."""
    if goal is None:
        return ops.cotangent(moved.contiguous(), clean.contiguous(), implementation=implementation)
    # Of unit vectors, the gradient of cos(e, a) - cos(e, b) to e is the part of a - b orthogonal to e.
    here, a, b = (F.normalize(embedding) for embedding in (moved, goal, clean))
    apart = a - b
    return ops.cotangent(
        apart.contiguous(), ((apart * here).sum(dim=1, keepdim=True) * here).contiguous(),
        implementation=implementation,
    )  # fmt: skip


def _velocity(
    before: Tensor | None,
    gradient: Tensor,
    scale: Tensor,
    config: CounterattackConfig,
    implementation: Implementation,
) -> Tensor:
    """v_k = momentum v_(k-1) and an unbounded step of the gradient (NAC): float32, in layout."""
    # A step of length 1/2 from mid-grey meets no bound. Its weight gives it the length that is asked for.
    exact = torch.promote_types(gradient.dtype, torch.float32)
    grey = torch.full_like(gradient, 0.5, dtype=exact)
    return ops.ascend(
        grey,
        torch.zeros_like(grey),
        gradient,
        None if before is None else config.momentum * before,
        scale,
        weight_before=0.0,
        weight=2 * config.step_size,
        eps=1.0,
        step_size=0.5,
        norm=config.norm,
        last=True,
        implementation=implementation,
    )[1]
