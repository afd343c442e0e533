"""The operators in plain PyTorch: what every other form is held to, what exporters trace, differentiable.

Arguments as in the schemas; `clipfast.ops` says what they mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..inputs.philox_tensors import l2_noise, linf_noise
from ..inputs.tensors import as_unit

__all__ = ["ascend", "cotangent", "drift_gate", "perturb", "zero_shot_head"]


def perturb(
    pixels: Tensor,
    noise: Tensor | None,
    seeds: Tensor | None,
    images: Tensor | None,
    eps: float,
    patch_height: int,
    patch_width: int,
    l2: bool,
) -> tuple[Tensor, Tensor]:
    """See `clipfast.ops.perturb`; patches of height 0: image layout."""
    if noise is None:
        assert seeds is not None
        assert images is not None
        draw = l2_noise if l2 else linf_noise
        noise = draw(seeds, images, pixels.shape[1:].numel(), eps).reshape(pixels.shape)
    x = as_unit(pixels).to(noise.dtype)
    if pixels.dtype != torch.uint8:
        x = torch.where((x >= 0) & (x <= 1), x, torch.nan)
    d = _into_bounds(noise, x)
    if not patch_height:
        return x, d
    return _patches(x, patch_height, patch_width), _patches(d, patch_height, patch_width)


def drift_gate(clean: Tensor, noisy: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """See `clipfast.ops.drift_gate`."""
    exact = _exact(clean)
    tau = (noisy.to(exact) - clean.to(exact)).norm(dim=1) / clean.to(exact).norm(dim=1)
    return tau, tau < threshold


def cotangent(embedding: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
    """See `clipfast.ops.cotangent`."""
    exact = _exact(clean)
    difference = embedding.to(exact) - clean.to(exact)
    distance = difference.norm(dim=1).clamp(min=torch.finfo(exact).tiny)
    return difference / distance[:, None], 2 * distance


def ascend(
    x: Tensor,
    d: Tensor,
    gradient: Tensor,
    total: Tensor | None,
    scale: Tensor | None,
    weight_before: float,
    weight: float,
    eps: float,
    step_size: float,
    l2: bool,
    last: bool,
) -> tuple[Tensor, Tensor]:
    """See `clipfast.ops.ascend`."""
    g = gradient.to(d.dtype)
    if total is None:
        total = weight_before * d
    if l2:
        assert scale is not None
        length = _length(g)
        length = torch.where(length.isinf(), torch.nan, length)  # g / inf is 0, which is as silent
        d = d + step_size * g / (length + (1e-10 / scale).reshape(_per_image(d)))
        d = d * (eps / _length(d).clamp(min=torch.finfo(d.dtype).tiny)).clamp(max=1.0)
    else:
        # sign(NaN) is 0, which would switch the defence off in silence.
        d = (d + step_size * torch.where(g.isnan(), g, g.sign())).clamp(-eps, eps)
    d = _into_bounds(d, x)
    return d.new_empty(0) if last else d, total + weight * d


def zero_shot_head(embedding: Tensor, class_weights: Tensor, scale: Tensor) -> Tensor:
    """See `clipfast.ops.zero_shot_head`."""
    return scale * torch.nn.functional.normalize(embedding, dim=1) @ class_weights


def _exact(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _into_bounds(d: Tensor, x: Tensor) -> Tensor:
    return d.clamp(min=-x, max=1 - x)


def _patches(pixels: Tensor, height: int, width: int) -> Tensor:
    """[N, 3, H, W] -> [N, patches, 3 * height * width]."""
    patches = pixels.unflatten(3, (-1, width)).unflatten(2, (-1, height))
    return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2).contiguous()


def _length(d: Tensor) -> Tensor:
    """The l2 norm of each image, shaped to broadcast over it."""
    return d.flatten(1).norm(dim=1).reshape(_per_image(d))


def _per_image(d: Tensor) -> tuple[int, ...]:
    return (-1, *(1 for _ in d.shape[1:]))
