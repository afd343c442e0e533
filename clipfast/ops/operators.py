"""The fused operators: what happens to a batch between two passes of its encoder.

Each has a naive form in plain PyTorch, a Triton form and a C++ form, which agree. `implementation` names
one, or is "auto": the one that CLIPFAST_IMPL names, else the fastest for the device. Tensors are contiguous
and on one device. The Triton and C++ forms take float32 (embeddings and gradients float16 and bfloat16 too)
and have no gradient: for float64 (then all through, where float32 is said below), and where autograd is
recording, "auto" is the naive form, unless CLIPFAST_IMPL names another. Each raises InputError for tensors
that do not fit, and where a form that is named is not available.
"""

from __future__ import annotations

from torch import Tensor

from ..config import Norm
from . import checks
from .dispatch import Implementation, form

__all__ = ["ascend", "cotangent", "drift_gate", "perturb", "zero_shot_head"]


def perturb(
    pixels: Tensor,
    noise: Tensor | None = None,
    *,
    seeds: Tensor | None = None,
    images: Tensor | None = None,
    eps: float,
    patch: tuple[int, int] | None = None,
    norm: Norm = "linf",
    implementation: Implementation = "auto",
) -> tuple[Tensor, Tensor]:
    """x and d0 (TTC, arXiv 2503.03613, section 3): the pixels, and noise moved so that x + d0 is in [0, 1].

    pixels: [B, 3, H, W], uint8 (taken as pixels / 255) or float in [0, 1]. noise: float32, shaped alike.
    seeds, images: int64 [B] instead, to draw it: a key's 64 bits and the image's index under that key, by
    Philox 4x32-10 as `clipfast.inputs.philox` defines it: U(-eps, eps) per pixel, to the bit the same in all
    forms; l2: a normal direction of a length from U(0, eps), from the same words. patch: (P, Q), the results'
    layout [B, patches, 3 * P * Q], or None for [B, 3, H, W]. Results are float32. A pixel outside of [0, 1]
    or NaN is NaN in both of them, so that its image's drift is NaN.
    """
    checks.check_perturb(pixels, noise, seeds, images, patch, norm)
    run = form("perturb", implementation, pixels, noise)
    return run(pixels, noise, seeds, images, eps, *(patch or (0, 0)), norm == "l2")


def drift_gate(
    clean: Tensor, noisy: Tensor, threshold: Tensor, *, implementation: Implementation = "auto"
) -> tuple[Tensor, Tensor]:
    """tau = ||f(x + d0) - f(x)|| / ||f(x)|| (TTC, section 3), and tau < threshold: float32 and bool [B].

    clean, noisy: f(x) and f(x + d0), [B, D]. threshold: float32, a scalar or one an image, [B]. Sums are
    float32. NaN is below no threshold.
    """
    checks.check_drift_gate(clean, noisy, threshold)
    return form("drift_gate", implementation, clean, noisy)(clean, noisy, threshold)


def cotangent(
    embedding: Tensor, clean: Tensor, *, implementation: Implementation = "auto"
) -> tuple[Tensor, Tensor]:
    """(f - f0) / ||f - f0||, and 2 ||f - f0||: float32 [B, D] and [B].

    embedding, clean: f = f(x + d) and f0 = f(x), [B, D]. The product of the two is the gradient of
    ||f - f0||^2 in f; the first alone gives the same signs and does not underflow in low precision. Where
    f equals f0 it is 0, and the second a tiny positive number.
    """
    checks.check_cotangent(embedding, clean)
    return form("cotangent", implementation, embedding, clean)(embedding, clean)


def ascend(
    x: Tensor,
    d: Tensor,
    gradient: Tensor,
    total: Tensor | None = None,
    scale: Tensor | None = None,
    *,
    weight_before: float,
    weight: float,
    eps: float,
    step_size: float,
    norm: Norm = "linf",
    last: bool = False,
    implementation: Implementation = "auto",
) -> tuple[Tensor, Tensor]:
    """One step of the counterattack, d_k of d_(k-1), and the sum of weighted steps up to it (TTC, section 3).

    x, d: float32 [B, ...], of one layout. gradient: shaped alike, of ||f(x + d) - f(x)||^2 divided by
    `scale`, positive numbers [B] that norm "l2" alone needs. total: the sum up to d_(k-1), or None at the
    first step, where it is weight_before * d_0. l-inf: d + step_size * sign(g), clamped to [-eps, eps];
    l2: d + step_size * g / (||g|| + 1e-10), scaled into the ball of eps; then moved so that x + d is in
    [0, 1]. last: the new d itself is not needed, and comes back empty. NaN in any of x, d and gradient is
    NaN in the result: not sign(NaN) = 0, which would switch the defence off in silence.
    """
    checks.check_ascend(x, d, gradient, total, scale, norm)
    l2 = norm == "l2"
    scale = scale if l2 else None
    run = form("ascend", implementation, x, d, gradient, total, scale)
    return run(x, d, gradient, total, scale, weight_before, weight, eps, step_size, l2, last)


def zero_shot_head(
    embedding: Tensor, class_weights: Tensor, scale: Tensor, *, implementation: Implementation = "auto"
) -> Tensor:
    """scale * (f / ||f||) @ class_weights (Radford et al., ICML 2021): float32 [B, C].

    embedding: f, float32 [B, D]. class_weights: float32 [D, C]. scale: float32, a scalar. ||f|| is at least
    1e-12.
    """
    checks.check_zero_shot_head(embedding, class_weights, scale)
    run = form("zero_shot_head", implementation, embedding, class_weights, scale)
    return run(embedding, class_weights, scale)
