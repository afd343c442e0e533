"""The test-time counterattack (TTC; Xing, Zhao, Sebe, CVPR 2025, arXiv 2503.03613) in plain PyTorch.

This module is the ground truth of every test and the baseline of every benchmark. `counterattack` spends
what the published code spends: 4 forward and 2 backward passes for every image.
`counterattack_early_return` reads the gate first, and counters only the images that it holds back. Other
gates, objectives and answers are in `clipfast.reference_stages`; the published settings use none of them.
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
    passed_embedding,
)

__all__ = ["Counterattacked", "counterattack", "counterattack_early_return"]


class Counterattacked(NamedTuple):
    """What a counterattack yields for N images.

    Attributes:
        embedding: [N, D], what the images are answered from: f(x + delta), or the mean of several views.
        clean_embedding: [N, D], f(x). NaN for images of which it was not needed.
        drift: [N], what the gate measured.
        countered: bool [N], drift < tau_threshold.
        delta: [N, 3, H, W], the perturbation in [0, 1] pixel units.
    """

    embedding: Tensor
    clean_embedding: Tensor
    drift: Tensor
    countered: Tensor
    delta: Tensor


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
    """Counters every image, and keeps the result for those that the gate holds back, as published.

    The published code spends the same passes. Works under `no_grad` and `inference_mode`.

    Args:
        encode: Any image tower, f.
        pixels: float [N, 3, H, W] in [0, 1].
        noise: float [N, 3, H, W], the caller's draw of U(-eps, eps) per pixel (l2: of a point in the
            ball).
        config: Settings of the defence.
        drift_encode: The tower that the gate measures with, if it is another one.
        tokens: What the gate reads of that tower if config.gate_depth is set, see
            `clipfast.models.tower.ImageTower.gate_tokens`.
        sign: What takes the sign of gradients. Attackers, who differentiate through the steps, replace it
            by something smooth.
        create_graph: Whether to keep the graph of every pass. For attackers only.

    Raises:
        InputError: If a transform of the config does not fit the size of the pixels.
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
                several = passed_embedding(encode, x, config, clean, config.passed_early(tau))
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
    """Gives the answers of `counterattack`, but runs the loop only for images that the gate holds back.

    With the gate "drift" and two steps an image that passes costs 2 forward passes, and a countered one 4
    forward and 2 backward, as published. If less than half of a batch is countered, it costs 5 and 2: the
    step that the probe's graph could serve runs again for those images alone. With another gate an image
    that passes costs 2 forward passes, and one more unless it is answered from f(x) alone; a countered
    one costs 5 and 2. (The gate "none" spends only f(x) before that; several views cost a pass each; the
    objective "towards" costs a pass more.)

    With a separate drift encoder f(x) is computed only where it is needed: `clean_embedding` is NaN for
    an image that passes with pass_through="noise".

    Args:
        encode: Any image tower, f.
        pixels: float [N, 3, H, W] in [0, 1].
        noise: float [N, 3, H, W], as for `counterattack`.
        config: Settings of the defence.
        drift_encode: The tower that the gate measures with, if it is another one.
        tokens: As for `counterattack`.

    Raises:
        InputError: If a transform of the config does not fit the size of the pixels.
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
                # The probe's graph serves the first step if at least half of the rows need it. Otherwise
                # those rows run again.
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
            # One pass gives f(x) of countered images, and what the others are answered from.
            embedding = encode(x + d * ~countered[:, None, None, None] if noise_passes else x)
            clean = embedding.clone()
            if noise_passes:
                clean[~countered] = torch.nan
        if config.passes_by_several and len(rows) < len(x):
            embedding[~countered] = passed_embedding(
                encode, x[~countered], config, clean[~countered], config.passed_early(tau)[~countered]
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
    """The gradient to d of the objective, such as ||f(x + d) - f(x)||^2, from f(x + d) and its graph."""
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
    """Computes delta = sum_k w_k d_k with w_k = exp(beta k) / sum_j exp(beta j), k = 0..steps.

    gradient is that at d, which is d_0. Each later one is taken at d_k, or with momentum ahead of it.
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
