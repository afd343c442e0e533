"""The counterattack (TTC, arXiv 2503.03613, section 3) as pure functions of tensors, each pass made once.

`probe` gives f(x) and f(x + d0), the gate reads them, `counterattack` ascends from the activations that the
probe saved, for countered rows alone, and `finish` embeds the result; `defend` is their composition. The
answers are `clipfast.reference`'s, for 2 forward passes where an image passes the gate and 4 forward and 2
backward where it is countered. Pixels and perturbations are in the encoder's layout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .config import CounterattackConfig
from .encoders.base import Encoder, Saved

__all__ = [
    "Defended",
    "Probe",
    "counterattack",
    "defend",
    "drift",
    "drift_by",
    "finish",
    "flat",
    "gate",
    "pass_on",
    "passed",
    "probe",
    "start",
    "take",
    "unflat",
]


class Probe(NamedTuple):
    """What is known of N images when the gate is read."""

    x: Tensor  # the pixels
    base: Tensor  # what f(x + d) takes of x
    d: Tensor  # d0
    clean: Tensor  # [N, D] f(x)
    noisy: Tensor  # [N, D] f(x + d0)
    saved: Saved  # the activations of f(x + d0)


class Defended(NamedTuple):
    """What a defence yields for N images."""

    embedding: Tensor  # [N, D] f(x + delta)
    clean_embedding: Tensor  # [N, D] f(x); NaN where it was not needed
    drift: Tensor  # [N] tau
    countered: Tensor  # [N] bool: tau < tau_threshold
    delta: Tensor | None  # [N, 3, H, W]


def start(noise: Tensor, x: Tensor) -> Tensor:
    """d0: the noise, moved where x + d0 would leave [0, 1]."""
    return noise.clamp(min=-x, max=1 - x)


def probe(encoder: Encoder, x: Tensor, d: Tensor, *, double: bool = True) -> Probe:
    """f(x) and f(x + d). double: in one batch of twice the size, which small batches gain from."""
    base = encoder.project(x)
    if double:
        return Probe(x, base, d, *encoder.forward_pair(base, d))
    return Probe(x, base, d, encoder.embed(base), *encoder.forward(base, d))


def drift(noisy: Tensor, clean: Tensor) -> Tensor:
    """tau = ||f(x + d0) - f(x)|| / ||f(x)||: [N]."""
    return (noisy - clean).norm(dim=1) / clean.norm(dim=1)


def gate(tau: Tensor, config: CounterattackConfig) -> Tensor:
    """Which images are countered, bool [N]: those that drift less than tau_threshold."""
    return tau < config.tau_threshold


def flat(probed: Probe) -> tuple[Tensor, ...]:
    """A probe as one tuple of tensors, each with the batch first; `unflat` undoes it."""
    return (*probed[:-1], *probed.saved)


def unflat(tensors: Sequence[Tensor]) -> Probe:
    """The probe of `flat`'s tensors."""
    n = len(Probe._fields) - 1
    return Probe(*tensors[:n], saved=tuple(tensors[n:]))


def passed(probed: Probe, config: CounterattackConfig) -> tuple[Tensor, Tensor]:
    """The embedding and the perturbation of images that pass the gate."""
    if config.pass_through == "clean":
        return probed.clean, torch.zeros_like(probed.d)
    return probed.noisy, probed.d


def take(probed: Probe, rows: Tensor) -> Probe:
    """The probe of some rows: int64 [M]."""
    return unflat([t.index_select(0, rows) for t in flat(probed)])


def counterattack(encoder: Encoder, probed: Probe, config: CounterattackConfig) -> Tensor:
    """delta = sum_k w_k d_k in layout, w_k = exp(beta k) / sum_j exp(beta j), k = 0..steps."""
    x, base, d, clean, embedding, saved = probed
    exponents = [math.exp(config.beta * (k - config.steps)) for k in range(config.steps + 1)]
    weights = [e / sum(exponents) for e in exponents]
    delta = weights[0] * d
    for k in range(1, config.steps + 1):
        d = _step(encoder, x, d, clean, embedding, saved, config)
        delta = delta + weights[k] * d
        if k < config.steps:
            embedding, saved = encoder.forward(base, d)
    return delta


def finish(encoder: Encoder, base: Tensor, delta: Tensor) -> Tensor:
    """f(x + delta): [N, D]."""
    return encoder.embed(base, delta)


def defend(
    encoder: Encoder,
    pixels: Tensor,
    noise: Tensor,
    config: CounterattackConfig,
    *,
    drift_encoder: Encoder | None = None,
) -> Defended:
    """The whole defence of N images, any of them countered, as one graph.

    pixels, noise: float32 [N, 3, H, W], the noise a draw within eps. drift_encoder: the tower that measures
    drift, where it is another one.
    """
    x = encoder.to_layout(pixels)
    d = start(encoder.to_layout(noise), x)
    if drift_encoder is None:
        probed = probe(encoder, x, d)
        tau, clean = drift(probed.noisy, probed.clean), probed.clean
        countered = gate(tau, config)
        rows = countered.nonzero().flatten()
        embedding, delta = passed(probed, config)
        held = take(probed, rows)
    else:
        tau = drift_by(drift_encoder, pixels, noise)
        countered = gate(tau, config)
        rows, others = countered.nonzero().flatten(), (~countered).nonzero().flatten()
        passing, _ = pass_on(encoder, x.index_select(0, others), d.index_select(0, others), config)
        held = probe(encoder, x.index_select(0, rows), d.index_select(0, rows))
        unknown = passing.new_full((pixels.shape[0], passing.shape[1]), torch.nan)
        embedding = unknown.index_copy(0, others, passing)
        clean = embedding if config.pass_through == "clean" else unknown
        clean = clean.index_copy(0, rows, held.clean)
        delta = torch.zeros_like(d) if config.pass_through == "clean" else d
    ascended = counterattack(encoder, held, config)
    return Defended(
        embedding.index_copy(0, rows, finish(encoder, held.base, ascended)),
        clean,
        tau,
        countered,
        encoder.from_layout(delta.index_copy(0, rows, ascended)),
    )


def drift_by(encoder: Encoder, pixels: Tensor, noise: Tensor) -> Tensor:
    """tau [N] of pixels and noise [N, 3, H, W] as another tower than the classifier's measures it."""
    x = encoder.to_layout(pixels)
    base = encoder.project(x)
    return drift(encoder.embed(base, start(encoder.to_layout(noise), x)), encoder.embed(base))


def pass_on(encoder: Encoder, x: Tensor, d: Tensor, config: CounterattackConfig) -> tuple[Tensor, Tensor]:
    """The embeddings and perturbations of images that another tower's drift let pass."""
    base = encoder.project(x)
    if config.pass_through == "clean":
        return encoder.embed(base), torch.zeros_like(d)
    return encoder.embed(base, d), d


def _step(
    encoder: Encoder,
    x: Tensor,
    d: Tensor,
    clean: Tensor,
    embedding: Tensor,
    saved: Saved,
    config: CounterattackConfig,
) -> Tensor:
    """d_k of d_(k-1): one step along the gradient of ||f(x + d) - f(x)||^2, back within eps and [0, 1]."""
    difference = embedding - clean
    # Any positive factor leaves the step as it is; this one keeps low precision from underflowing.
    distance = difference.norm(dim=1, keepdim=True)
    tiny = torch.finfo(distance.dtype).tiny
    gradient = encoder.input_gradient(saved, difference / distance.clamp(min=tiny)).to(d.dtype)
    if config.norm == "linf":
        d = (d + config.step_size * gradient.sign()).clamp(-config.eps, config.eps)
    else:
        # g / (||g|| + 1e-10) of the gradient itself, which is 2 * distance times this one.
        length = _length(gradient) + 1e-10 / (2 * distance.clamp(min=tiny)).reshape(_per_image(d))
        d = d + config.step_size * gradient / length
        d = d * (config.eps / _length(d).clamp(min=tiny)).clamp(max=1.0)
    return start(d, x)


def _length(d: Tensor) -> Tensor:
    """The l2 norm of each image, shaped to broadcast over it."""
    return d.flatten(1).norm(dim=1).reshape(_per_image(d))


def _per_image(d: Tensor) -> tuple[int, ...]:
    return (-1, *(1 for _ in d.shape[1:]))
