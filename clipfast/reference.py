"""The test-time counterattack (TTC; Xing, Zhao, Sebe, CVPR 2025, arXiv 2503.03613) in plain PyTorch.

This page is the ground truth of every test and the baseline of every benchmark. `counterattack` spends
what the published code spends, 4 forward and 2 backward passes for every image; `counterattack_early_return`
reads the gate first and counters only the images that it holds back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .config import CounterattackConfig

__all__ = ["Counterattacked", "counterattack", "counterattack_early_return", "drift_of", "into_bounds"]

Encoder = Callable[[Tensor], Tensor]  # pixels [N, 3, H, W] in [0, 1] -> embeddings [N, D], not normalised


class Counterattacked(NamedTuple):
    """What a counterattack yields for N images."""

    embedding: Tensor  # [N, D] f(x + delta)
    clean_embedding: Tensor  # [N, D] f(x)
    drift: Tensor  # [N] tau
    countered: Tensor  # [N] bool: tau < tau_threshold
    delta: Tensor  # [N, 3, H, W]


def counterattack(
    encode: Encoder,
    pixels: Tensor,
    noise: Tensor,
    config: CounterattackConfig,
    *,
    drift_encode: Encoder | None = None,
    sign: Callable[[Tensor], Tensor] = torch.sign,
    create_graph: bool = False,
) -> Counterattacked:
    """Counters every image and keeps the result where the gate says so, as the published code does.

    encode: any image tower, f. pixels, noise: float [N, 3, H, W]; the noise is the caller's draw of
    U(-eps, eps) per pixel (l2: of a point in the ball). drift_encode: the tower that measures drift, where
    it is another one. sign, create_graph: for attackers only, who differentiate through the steps and
    replace the sign by something smooth. Works under `no_grad` and `inference_mode`.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x, d0 = pixels, into_bounds(noise, pixels)
        with torch.set_grad_enabled(create_graph):
            clean = encode(x)
        d = d0 if d0.requires_grad else d0.detach().requires_grad_()
        noisy = encode(x + d)
        with torch.set_grad_enabled(create_graph):
            measured = (noisy, clean) if drift_encode is None else (drift_encode(x + d0), drift_encode(x))
            tau = drift_of(*measured)
        gradient = _gradient(noisy, clean, d, create_graph)
        delta = _ascend(encode, x, d, gradient, clean, config, sign, create_graph)
        countered = tau < config.tau_threshold
        passed = d0 if config.pass_through == "noise" else torch.zeros_like(d0)
        delta = torch.where(countered[:, None, None, None], delta, passed)
        with torch.set_grad_enabled(create_graph):
            embedding = encode(x + delta)
    return Counterattacked(embedding, clean, tau, countered, delta)


def counterattack_early_return(
    encode: Encoder,
    pixels: Tensor,
    noise: Tensor,
    config: CounterattackConfig,
    *,
    drift_encode: Encoder | None = None,
) -> Counterattacked:
    """The same answers, with the loop run only for images that the gate holds back.

    Takes what `counterattack` takes. Images that pass cost 2 forward passes. Countered ones cost 4 and 2
    backward, as published; where they are less than half of the batch 5 and 2, because the step that the
    probe's graph could serve runs again for them alone. With a separate drift encoder f(x) is computed only
    where it is needed: `clean_embedding` is NaN for an image that passes with pass_through="noise".
    """
    clean_passes = config.pass_through == "clean"
    with torch.inference_mode(False), torch.no_grad():
        x, d = pixels, into_bounds(noise, pixels)
        gradient = None
        if drift_encode is None:
            clean = encode(x)
            with torch.enable_grad():
                leaf = d.detach().requires_grad_()
                noisy = encode(x + leaf)
                tau = drift_of(noisy.detach(), clean)
                countered = tau < config.tau_threshold
                rows = countered.nonzero().flatten()
                # The probe's graph serves the first step where most rows need it; else they run again.
                if 2 * len(rows) >= len(x):
                    gradient = _gradient(noisy, clean, leaf)[rows]
            embedding = clean.clone() if clean_passes else noisy.detach()
            del noisy  # and with it the probe's activations
        else:
            tau = drift_of(drift_encode(x + d), drift_encode(x))
            countered = tau < config.tau_threshold
            rows = countered.nonzero().flatten()
            # One pass gives f(x) where an image is countered and the answer where it is not.
            embedding = encode(x if clean_passes else x + d * ~countered[:, None, None, None])
            clean = embedding.clone()
            if not clean_passes:
                clean[~countered] = torch.nan
        delta = torch.zeros_like(d) if clean_passes else d.clone()
        if len(rows):
            with torch.enable_grad():
                x, leaf, clean_rows = x[rows], d[rows].requires_grad_(), clean[rows]
                if gradient is None:
                    gradient = _gradient(encode(x + leaf), clean_rows, leaf)
                countering = _ascend(encode, x, leaf, gradient, clean_rows, config)
            delta[rows] = countering
            embedding[rows] = encode(x + countering)
    return Counterattacked(embedding, clean, tau, countered, delta)


def drift_of(noisy: Tensor, clean: Tensor) -> Tensor:
    """tau = ||f(x + d0) - f(x)|| / ||f(x)|| of embeddings f(x + d0) and f(x), [N, D]: [N]."""
    return (noisy - clean).norm(dim=1) / clean.norm(dim=1)


def _gradient(noisy: Tensor, clean: Tensor, d: Tensor, create_graph: bool = False) -> Tensor:
    """d/dd ||f(x + d) - f(x)||^2, given f(x + d) with its graph."""
    distance = (noisy - clean).square().sum()
    return torch.autograd.grad(distance, d, create_graph=create_graph)[0]


def _ascend(
    encode: Encoder,
    x: Tensor,
    d: Tensor,
    gradient: Tensor,
    clean: Tensor,
    config: CounterattackConfig,
    sign: Callable[[Tensor], Tensor] = torch.sign,
    create_graph: bool = False,
) -> Tensor:
    """delta = sum_k w_k d_k with w_k = exp(beta k) / sum_j exp(beta j), k = 0..steps."""
    weights = torch.softmax(config.beta * torch.arange(config.steps + 1, dtype=torch.float64), 0).tolist()
    delta = weights[0] * d
    for k in range(1, config.steps + 1):
        d = _step(d, gradient, x, config, sign)
        delta = delta + weights[k] * d
        if k < config.steps:
            d = d if create_graph else d.detach().requires_grad_()
            gradient = _gradient(encode(x + d), clean, d, create_graph)
    return delta if create_graph else delta.detach()


def _step(
    d: Tensor, gradient: Tensor, x: Tensor, config: CounterattackConfig, sign: Callable[[Tensor], Tensor]
) -> Tensor:
    if config.norm == "linf":
        d = (d + config.step_size * sign(gradient)).clamp(-config.eps, config.eps)
    else:
        length = gradient.flatten(1).norm(dim=1)[:, None, None, None]
        d = d + config.step_size * gradient / (length + 1e-10)
        d = d.renorm(p=2, dim=0, maxnorm=config.eps)
    return into_bounds(d, x)


def into_bounds(d: Tensor, x: Tensor) -> Tensor:
    """The perturbation nearest to d with x + d in [0, 1]: [N, 3, H, W]."""
    return d.clamp(min=-x, max=1 - x)
