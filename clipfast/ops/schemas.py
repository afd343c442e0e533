"""What the operators are to torch: schemas, and the shapes of their results."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["LIBRARY"]

LIBRARY = torch.library.Library("clipfast", "FRAGMENT")

for schema in (
    # See clipfast.ops, and clipfast.ops.split_linear for the last. l2: or l-inf.
    "perturb(Tensor pixels, Tensor? noise, Tensor? seeds, Tensor? images, float eps, "
    "int patch_height, int patch_width, bool l2) -> (Tensor x, Tensor d)",
    "drift_gate(Tensor clean, Tensor noisy, Tensor threshold) -> (Tensor tau, Tensor countered)",
    "cotangent(Tensor embedding, Tensor clean) -> (Tensor cotangent, Tensor scale)",
    "ascend(Tensor x, Tensor d, Tensor gradient, Tensor? total, Tensor? scale, float weight_before, "
    "float weight, float eps, float step_size, bool l2, bool last) -> (Tensor d, Tensor total)",
    "zero_shot_head(Tensor embedding, Tensor class_weights, Tensor scale) -> Tensor",
    "split_linear(Tensor x, Tensor blocks, Tensor? bias, int out, bool transposed) -> Tensor",
):
    LIBRARY.define(schema)


@torch.library.register_fake("clipfast::perturb", lib=LIBRARY)
def _perturb(
    pixels: Tensor,
    noise: Tensor | None,
    seeds: Tensor | None,  # noqa: ARG001
    images: Tensor | None,  # noqa: ARG001
    eps: float,  # noqa: ARG001
    patch_height: int,
    patch_width: int,
    l2: bool,  # noqa: ARG001
) -> tuple[Tensor, Tensor]:
    shape = pixels.shape
    if patch_height:
        patches = (shape[2] // patch_height) * (shape[3] // patch_width)
        shape = (shape[0], patches, shape[1] * patch_height * patch_width)
    dtype = torch.float32 if noise is None else noise.dtype
    return pixels.new_empty(shape, dtype=dtype), pixels.new_empty(shape, dtype=dtype)


@torch.library.register_fake("clipfast::drift_gate", lib=LIBRARY)
def _drift_gate(clean: Tensor, noisy: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    tau = clean.new_empty(clean.shape[0], dtype=torch.promote_types(clean.dtype, torch.float32))
    return tau, tau.new_empty(tau.shape, dtype=torch.bool)


@torch.library.register_fake("clipfast::cotangent", lib=LIBRARY)
def _cotangent(embedding: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    dtype = torch.promote_types(clean.dtype, torch.float32)
    return clean.new_empty(clean.shape, dtype=dtype), clean.new_empty(clean.shape[0], dtype=dtype)


@torch.library.register_fake("clipfast::ascend", lib=LIBRARY)
def _ascend(
    x: Tensor,  # noqa: ARG001
    d: Tensor,
    gradient: Tensor,  # noqa: ARG001
    total: Tensor | None,  # noqa: ARG001
    scale: Tensor | None,  # noqa: ARG001
    weight_before: float,  # noqa: ARG001
    weight: float,  # noqa: ARG001
    eps: float,  # noqa: ARG001
    step_size: float,  # noqa: ARG001
    l2: bool,  # noqa: ARG001
    last: bool,
) -> tuple[Tensor, Tensor]:
    return d.new_empty(0) if last else torch.empty_like(d), torch.empty_like(d)


@torch.library.register_fake("clipfast::zero_shot_head", lib=LIBRARY)
def _zero_shot_head(embedding: Tensor, class_weights: Tensor, scale: Tensor) -> Tensor:  # noqa: ARG001
    return embedding.new_empty(embedding.shape[0], class_weights.shape[1])


@torch.library.register_fake("clipfast::split_linear", lib=LIBRARY)
def _split_linear(x: Tensor, blocks: Tensor, bias: Tensor | None, out: int, transposed: bool) -> Tensor:  # noqa: ARG001
    return x.new_empty(*x.shape[:-1], out)
