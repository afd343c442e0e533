"""The counterattack (TTC, arXiv 2503.03613, section 3) as pure functions of tensors, each pass made once.

`start` gives x and d0, `probe` f(x) and f(x + d0), the gate reads them, `counterattack` ascends from the
activations that the probe saved, for countered rows alone, and `finish` embeds the result; `defend` is their
composition. The answers are `clipfast.reference`'s, for 2 forward passes where an image passes the gate and
4 forward and 2 backward where it is countered. `gate_by` goes before the probe where another tower measures
drift, and with the low-pass gate. x and perturbations are in the encoder's layout. implementation: of the
operators between the passes, see `clipfast.ops`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import ops
from ..config import CounterattackConfig
from ..encoders.base import Encoder, Saved
from ..inputs.draws import Draw
from ..inputs.tensors import as_unit
from ..ops import Implementation
from .low_pass import low_pass

__all__ = [
    "Defended",
    "Gated",
    "Probe",
    "counterattack",
    "defend",
    "finish",
    "flat",
    "gate",
    "gate_by",
    "gates_first",
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


class Gated(NamedTuple):
    """What a gate says of N images before they are probed."""

    drift: Tensor  # [N] tau, or the low-pass gate's cosine
    countered: Tensor  # [N] bool: drift < threshold
    clean: Tensor  # [N, D] f(x) of the tower that measured


class Defended(NamedTuple):
    """What a defence yields for N images."""

    embedding: Tensor  # [N, D] f(x + delta)
    clean_embedding: Tensor  # [N, D] f(x); NaN where it was not needed
    drift: Tensor  # [N] tau, or the low-pass gate's cosine
    countered: Tensor  # [N] bool: drift < tau_threshold
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


def probe(
    encoder: Encoder, x: Tensor, d: Tensor, *, double: bool = True, clean: Tensor | None = None
) -> Probe:
    """f(x) and f(x + d). double: in one batch of twice the size, which small batches gain from.

    clean: f(x) [N, D], where it is known.
    """
    base = encoder.project(x)
    if clean is not None:
        return Probe(x, base, d, clean, *encoder.forward(base, d))
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
    velocity = None
    exponents = [math.exp(config.beta * (k - config.steps)) for k in range(config.steps + 1)]
    weights = [e / sum(exponents) for e in exponents]
    total = None
    for k in range(1, config.steps + 1):
        cotangent, scale = ops.cotangent(
            embedding.contiguous(), clean.contiguous(), implementation=implementation
        )
        gradient = encoder.input_gradient(saved, cotangent).contiguous()
        # With momentum, d is the point ahead: a step from there is v_k from d_(k-1).
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
            embedding, saved = encoder.forward(base, d)
    assert total is not None
    return total


def _velocity(
    before: Tensor | None,
    gradient: Tensor,
    scale: Tensor,
    config: CounterattackConfig,
    implementation: Implementation,
) -> Tensor:
    """v_k = momentum v_(k-1) and an unbounded step of the gradient (NAC): float32, in layout."""
    # A step of length 1/2 from mid-grey is cut by no bound; its weight makes it as long as is asked for.
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
    gated, known = None, None
    if gates_first(config, drift_encoder):
        measuring = encoder if drift_encoder is None else drift_encoder
        gated = gate_by(measuring, pixels, noise, threshold, config, implementation)
        known = gated.clean if drift_encoder is None else None
    if masked:
        probed = probe(encoder, x, d, clean=known)
        if gated is None:
            tau, countered = gate(probed.clean, probed.noisy, threshold, implementation)
        else:
            tau, countered = gated.drift, gated.countered
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
    if gated is None:
        probed = probe(encoder, x, d)
        clean = probed.clean
        tau, countered = gate(clean, probed.noisy, threshold, implementation)
        rows = countered.nonzero().flatten()
        embedding, delta = passed(probed, config)
        held = take(probed, rows)
    else:
        tau, countered = gated.drift, gated.countered
        rows, others = countered.nonzero().flatten(), (~countered).nonzero().flatten()

        def of(images: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
            rest = None if known is None else known.index_select(0, images)
            return x.index_select(0, images), d.index_select(0, images), rest

        passing, _ = pass_on(encoder, *of(others), config)
        x_rows, d_rows, known_rows = of(rows)
        held = probe(encoder, x_rows, d_rows, clean=known_rows)
        unknown = passing.new_full((pixels.shape[0], passing.shape[1]), torch.nan)
        embedding = unknown.index_copy(0, others, passing)
        clean = embedding if config.pass_through == "clean" else unknown
        if known is not None:
            clean = known
        elif with_clean and config.pass_through == "noise":
            needed = encoder.embed(encoder.project(x.index_select(0, others)))
            clean = unknown.index_copy(0, others, needed)
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


def gates_first(config: CounterattackConfig, drift_encoder: Encoder | None) -> bool:
    """Whether the gate reads other passes than the probe's, and so goes before it."""
    return drift_encoder is not None or config.gate == "low_pass"


def gate_by(
    encoder: Encoder,
    pixels: Tensor,
    noise: Tensor | Draw,
    threshold: Tensor,
    config: CounterattackConfig,
    implementation: Implementation = "auto",
) -> Gated:
    """The gate by itself, 2 forward passes of a tower: the classifier's or the one that measures drift."""
    if config.gate == "drift":
        x, d = start(encoder, pixels, noise, config, implementation)
        base = encoder.project(x)
        clean = encoder.embed(base)
        return Gated(*gate(clean, encoder.embed(base, d), threshold, implementation), clean)
    picture = as_unit(pixels)
    # Seen as a perturbation, the filtered picture is kept within [0, 1] and put into layout like any other.
    x, d = start(encoder, pixels, low_pass(picture, config.radius) - picture, config, implementation)
    base = encoder.project(x)
    clean = encoder.embed(base)
    cosine = torch.cosine_similarity(encoder.embed(base, d), clean, dim=1)
    return Gated(cosine, cosine < threshold, clean)


def pass_on(
    encoder: Encoder, x: Tensor, d: Tensor, clean: Tensor | None, config: CounterattackConfig
) -> tuple[Tensor, Tensor]:
    """The embeddings and perturbations of images that a gate before the probe let pass.

    clean: f(x) [N, D], where it is known.
    """
    if config.pass_through == "noise":
        return encoder.embed(encoder.project(x), d), d
    return encoder.embed(encoder.project(x)) if clean is None else clean, torch.zeros_like(d)
