"""The counterattack (TTC, arXiv 2503.03613, section 3) as pure functions of tensors, each pass made once.

`start` gives x and d0, `probe` f(x) and f(x + d0), the gate reads them, `counterattack` ascends from the
activations that the probe saved, for countered rows alone, and `finish` embeds the result; `defend` is their
composition. The answers are `clipfast.reference`'s, for 2 forward passes where an image passes the gate and
4 forward and 2 backward where it is countered. x and perturbations are in the encoder's layout.
implementation: of the operators between the passes, see `clipfast.ops`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import ops
from .config import CounterattackConfig
from .draws import Draw
from .encoders.base import Encoder, Saved
from .ops import Implementation

__all__ = [
    "Defended",
    "Probe",
    "counterattack",
    "defend",
    "finish",
    "flat",
    "gate",
    "gate_by",
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


def start(
    encoder: Encoder,
    pixels: Tensor,
    noise: Tensor | Draw,
    config: CounterattackConfig,
    implementation: Implementation = "auto",
) -> tuple[Tensor, Tensor]:
    """x, and d0: noise within eps, moved where x + d0 would leave [0, 1].

    pixels: [N, 3, H, W], uint8 or float in [0, 1]. noise: float, shaped alike, or named by a draw.
    """
    if isinstance(noise, Draw):
        given, (seeds, images) = None, noise
    else:
        given, seeds, images = noise, None, None
    return ops.perturb(
        pixels,
        given,
        seeds=seeds,
        images=images,
        eps=config.eps,
        patch=encoder.patch_size,
        norm=config.norm,
        implementation=implementation,
    )


def probe(encoder: Encoder, x: Tensor, d: Tensor, *, double: bool = True) -> Probe:
    """f(x) and f(x + d). double: in one batch of twice the size, which small batches gain from."""
    base = encoder.project(x)
    if double:
        return Probe(x, base, d, *encoder.forward_pair(base, d))
    return Probe(x, base, d, encoder.embed(base), *encoder.forward(base, d))


def gate(
    clean: Tensor, noisy: Tensor, threshold: Tensor, implementation: Implementation = "auto"
) -> tuple[Tensor, Tensor]:
    """tau [N], and which images are countered, bool [N]: those that drift less than the threshold."""
    return ops.drift_gate(clean.contiguous(), noisy.contiguous(), threshold, implementation=implementation)


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


def counterattack(
    encoder: Encoder, probed: Probe, config: CounterattackConfig, implementation: Implementation = "auto"
) -> Tensor:
    """delta = sum_k w_k d_k in layout, w_k = exp(beta k) / sum_j exp(beta j), k = 0..steps."""
    x, base, d, clean, embedding, saved = probed
    exponents = [math.exp(config.beta * (k - config.steps)) for k in range(config.steps + 1)]
    weights = [e / sum(exponents) for e in exponents]
    total = None
    for k in range(1, config.steps + 1):
        cotangent, scale = ops.cotangent(
            embedding.contiguous(), clean.contiguous(), implementation=implementation
        )
        d, total = ops.ascend(
            x,
            d,
            encoder.input_gradient(saved, cotangent).contiguous(),
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
            embedding, saved = encoder.forward(base, d)
    assert total is not None
    return total


def finish(encoder: Encoder, base: Tensor, delta: Tensor) -> Tensor:
    """f(x + delta): [N, D]."""
    return encoder.embed(base, delta)


def defend(
    encoder: Encoder,
    pixels: Tensor,
    noise: Tensor | Draw,
    threshold: Tensor,
    config: CounterattackConfig,
    *,
    drift_encoder: Encoder | None = None,
    masked: bool = False,
    with_clean: bool = False,
    implementation: Implementation = "auto",
) -> Defended:
    """The whole defence of N images, any of them countered, as one graph.

    pixels: [N, 3, H, W], uint8 or float in [0, 1]. noise: float, shaped alike, within eps, or named by a
    draw. threshold: float32, a scalar or one an image, [N], in the place of the config's. drift_encoder: the
    tower that measures drift, where it is another one. masked: counter every image and let the gate choose
    between results, so that no shape depends on a value. with_clean: f(x) of every image, needed or not.
    """
    x, d = start(encoder, pixels, noise, config, implementation)
    if masked:
        probed = probe(encoder, x, d)
        if drift_encoder is None:
            tau, countered = gate(probed.clean, probed.noisy, threshold, implementation)
        else:
            tau, countered = gate_by(drift_encoder, pixels, noise, threshold, config, implementation)
        embedding, delta = passed(probed, config)
        ascended = counterattack(encoder, probed, config, implementation)
        chosen = countered.reshape(-1, *(1 for _ in d.shape[1:]))
        return Defended(
            torch.where(countered[:, None], finish(encoder, probed.base, ascended), embedding),
            probed.clean,
            tau,
            countered,
            encoder.from_layout(torch.where(chosen, ascended, delta)),
        )
    if drift_encoder is None:
        probed = probe(encoder, x, d)
        clean = probed.clean
        tau, countered = gate(clean, probed.noisy, threshold, implementation)
        rows = countered.nonzero().flatten()
        embedding, delta = passed(probed, config)
        held = take(probed, rows)
    else:
        tau, countered = gate_by(drift_encoder, pixels, noise, threshold, config, implementation)
        rows, others = countered.nonzero().flatten(), (~countered).nonzero().flatten()
        passing, _ = pass_on(encoder, x.index_select(0, others), d.index_select(0, others), config)
        held = probe(encoder, x.index_select(0, rows), d.index_select(0, rows))
        unknown = passing.new_full((pixels.shape[0], passing.shape[1]), torch.nan)
        embedding = unknown.index_copy(0, others, passing)
        clean = embedding if config.pass_through == "clean" else unknown
        if with_clean and config.pass_through == "noise":
            known = encoder.embed(encoder.project(x.index_select(0, others)))
            clean = unknown.index_copy(0, others, known)
        clean = clean.index_copy(0, rows, held.clean)
        delta = torch.zeros_like(d) if config.pass_through == "clean" else d
    ascended = counterattack(encoder, held, config, implementation)
    return Defended(
        embedding.index_copy(0, rows, finish(encoder, held.base, ascended)),
        clean,
        tau,
        countered,
        encoder.from_layout(delta.index_copy(0, rows, ascended)),
    )


def gate_by(
    encoder: Encoder,
    pixels: Tensor,
    noise: Tensor | Draw,
    threshold: Tensor,
    config: CounterattackConfig,
    implementation: Implementation = "auto",
) -> tuple[Tensor, Tensor]:
    """tau [N] and the countered, bool [N], as another tower than the classifier's measures drift."""
    x, d = start(encoder, pixels, noise, config, implementation)
    base = encoder.project(x)
    return gate(encoder.embed(base), encoder.embed(base, d), threshold, implementation)


def pass_on(encoder: Encoder, x: Tensor, d: Tensor, config: CounterattackConfig) -> tuple[Tensor, Tensor]:
    """The embeddings and perturbations of images that another tower's drift let pass."""
    base = encoder.project(x)
    if config.pass_through == "clean":
        return encoder.embed(base), torch.zeros_like(d)
    return encoder.embed(base, d), d
