"""The test-time counterattack (TTC; Xing, Zhao, Sebe, CVPR 2025, arXiv 2503.03613) in plain PyTorch.

This page is the ground truth of every test and the baseline of every benchmark. `counterattack` spends what
the published code spends, 4 forward and 2 backward passes for every image; `counterattack_early_return` reads
the gate first and counters only the images that it holds back. Other gates, objectives and answers stand in
`clipfast.reference_stages`; with the published settings none of them comes in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .config import CounterattackConfig
from .reference_stages import (
    Encoder,
    answer_embedding,
    ascended,
    drift_of,
    gate_measure,
    goal_of,
    into_bounds,
    passed_early,
    passed_embedding,
)

__all__ = ["Counterattacked", "counterattack", "counterattack_early_return"]


class Counterattacked(NamedTuple):
    """What a counterattack yields for N images."""

    embedding: Tensor  # [N, D] f(x + delta), or what of its views stands for it
    clean_embedding: Tensor  # [N, D] f(x)
    drift: Tensor  # [N] what the gate measured
    countered: Tensor  # [N] bool: tau < tau_threshold
    delta: Tensor  # [N, 3, H, W]


def counterattack(
    encode: Encoder,
    pixels: Tensor,
    noise: Tensor,
    config: CounterattackConfig,
    *,
    drift_encode: Encoder | None = None,
    tokens: Encoder | None = None,
    sign: Callable[[Tensor], Tensor] = torch.sign,
    create_graph: bool = False,
) -> Counterattacked:
    """Counters every image and keeps the result where the gate says so, as the published code does.

    encode: any image tower, f. pixels, noise: float [N, 3, H, W]; the noise is the caller's draw of
    U(-eps, eps) per pixel (l2: of a point in the ball). drift_encode: the tower that measures drift, where
    it is another one. tokens: with config.gate_depth, what the gate reads of that tower, see
    `clipfast.models.tower.ImageTower.gate_tokens`. sign, create_graph: for attackers only, who differentiate
    through the steps and replace the sign by something smooth. Works under `no_grad` and `inference_mode`.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x, d0 = pixels, into_bounds(noise, pixels)
        with torch.set_grad_enabled(create_graph):
            clean = encode(x)
        d = d0 if d0.requires_grad else d0.detach().requires_grad_()
        noisy = encode(x + d)
        with torch.set_grad_enabled(create_graph):
            if drift_encode is not None:
                tau = gate_measure(drift_encode, x, d0, drift_encode(x), config, tokens)
            elif config.gate == "drift":
                tau = drift_of(noisy, clean)
            else:
                tau = gate_measure(encode, x, d0, clean, config, tokens)
            goal = goal_of(encode, x, config)
        passed = d0 if config.pass_through == "noise" else torch.zeros_like(d0)
        countering = passed
        if config.steps:
            gradient = _gradient(noisy, clean, goal, d, create_graph)
            countering = _ascend(encode, x, d, gradient, clean, goal, config, sign, create_graph)
        countered = tau < config.tau_threshold
        delta = torch.where(countered[:, None, None, None], countering, passed)
        with torch.set_grad_enabled(create_graph):
            embedding = encode(x + delta)
            if config.views:
                seen = answer_embedding(encode, x + delta, config)
                embedding = torch.where(countered[:, None], seen, embedding)
            if config.passes_by_several:
                several = passed_embedding(encode, x, config, clean, passed_early(tau, config))
                embedding = torch.where(countered[:, None], embedding, several)
    return Counterattacked(embedding, clean, tau, countered, delta)


def counterattack_early_return(
    encode: Encoder,
    pixels: Tensor,
    noise: Tensor,
    config: CounterattackConfig,
    *,
    drift_encode: Encoder | None = None,
    tokens: Encoder | None = None,
) -> Counterattacked:
    """The same answers, with the loop run only for images that the gate holds back.

    Takes what `counterattack` takes. Images that pass cost 2 forward passes. Countered ones cost 4 and 2
    backward, as published; where they are less than half of the batch 5 and 2, because the step that the
    probe's graph could serve runs again for them alone. Other gates: 2, and one more without
    pass_through="clean"; countered 5 and 2. With a separate drift encoder f(x) is computed only
    where it is needed: `clean_embedding` is NaN for an image that passes with pass_through="noise".
    """
    noise_passes = config.pass_through == "noise"
    with torch.inference_mode(False), torch.no_grad():
        x, d = pixels, into_bounds(noise, pixels)
        gradient = None
        if drift_encode is None and config.gate == "drift":
            clean = encode(x)
            with torch.enable_grad():
                leaf = d.detach().requires_grad_()
                noisy = encode(x + leaf)
                tau = drift_of(noisy.detach(), clean)
                countered = tau < config.tau_threshold
                rows = countered.nonzero().flatten()
                # The probe's graph serves the first step where most rows need it; else they run again.
                if 2 * len(rows) >= len(x) and config.steps and config.objective == "away":
                    gradient = _gradient(noisy, clean, None, leaf)[rows]
            embedding = noisy.detach() if noise_passes else clean.clone()
            del noisy  # and with it the probe's activations
        elif drift_encode is None:
            clean = encode(x)
            tau = gate_measure(encode, x, d, clean, config, tokens)
            countered = tau < config.tau_threshold
            rows = countered.nonzero().flatten()
            embedding = clean.clone()
            if noise_passes and len(rows) < len(x):
                embedding[~countered] = encode((x + d)[~countered])
        else:
            tau = gate_measure(drift_encode, x, d, drift_encode(x), config, tokens)
            countered = tau < config.tau_threshold
            rows = countered.nonzero().flatten()
            # One pass gives f(x) where an image is countered and the answer where it is not.
            embedding = encode(x + d * ~countered[:, None, None, None] if noise_passes else x)
            clean = embedding.clone()
            if noise_passes:
                clean[~countered] = torch.nan
        if config.passes_by_several and len(rows) < len(x):
            embedding[~countered] = passed_embedding(
                encode, x[~countered], config, clean[~countered], passed_early(tau, config)[~countered]
            )
        delta = d.clone() if noise_passes else torch.zeros_like(d)
        if len(rows):
            x, clean_rows = x[rows], clean[rows]
            if config.steps:
                goal = goal_of(encode, x, config)
                with torch.enable_grad():
                    leaf = d[rows].requires_grad_()
                    if gradient is None:
                        gradient = _gradient(encode(x + leaf), clean_rows, goal, leaf)
                    delta[rows] = _ascend(encode, x, leaf, gradient, clean_rows, goal, config)
            embedding[rows] = answer_embedding(encode, x + delta[rows], config)
    return Counterattacked(embedding, clean, tau, countered, delta)


def _gradient(
    noisy: Tensor, clean: Tensor, goal: Tensor | None, d: Tensor, create_graph: bool = False
) -> Tensor:
    """d/dd ||f(x + d) - f(x)||^2, or of another objective, given f(x + d) with its graph."""
    return torch.autograd.grad(ascended(noisy, clean, goal), d, create_graph=create_graph)[0]


def _ascend(
    encode: Encoder,
    x: Tensor,
    d: Tensor,
    gradient: Tensor,
    clean: Tensor,
    goal: Tensor | None,
    config: CounterattackConfig,
    sign: Callable[[Tensor], Tensor] = torch.sign,
    create_graph: bool = False,
) -> Tensor:
    """delta = sum_k w_k d_k with w_k = exp(beta k) / sum_j exp(beta j), k = 0..steps.

    gradient: at d, which is d_0; where momentum is 0 every later one is taken at d_k, else ahead of it.
    """
    velocity = None
    weights = torch.softmax(config.beta * torch.arange(config.steps + 1, dtype=torch.float64), 0).tolist()
    delta = weights[0] * d
    for k in range(1, config.steps + 1):
        d, velocity = _step(d, velocity, gradient, x, config, sign)
        delta = delta + weights[k] * d
        if k < config.steps:
            d = d if create_graph else d.detach().requires_grad_()
            ahead = d + config.momentum * velocity if config.momentum else d
            gradient = _gradient(encode(x + ahead), clean, goal, ahead, create_graph)
    return delta if create_graph else delta.detach()


def _step(
    d: Tensor,
    velocity: Tensor | None,
    gradient: Tensor,
    x: Tensor,
    config: CounterattackConfig,
    sign: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """d_k and the velocity v_k: momentum v_(k-1) and a step of the gradient."""
    if config.norm == "linf":
        step = config.step_size * sign(gradient)
    else:
        length = gradient.flatten(1).norm(dim=1)[:, None, None, None]
        step = config.step_size * gradient / (length + 1e-10)
    if config.momentum and velocity is not None:
        step = config.momentum * velocity + step
    d = d + step
    if config.norm == "linf":
        d = d.clamp(-config.eps, config.eps)
    else:
        d = d.renorm(p=2, dim=0, maxnorm=config.eps)
    return into_bounds(d, x), step
