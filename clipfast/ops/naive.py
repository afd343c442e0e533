"""The operators in plain PyTorch: what every other form is held to, what exporters trace, differentiable.

Arguments as in the schemas; `clipfast.ops` says what they mean.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..validation import as_unit

__all__ = ["ascend", "cotangent", "drift_gate", "l2_noise", "linf_noise", "perturb", "zero_shot_head"]

_WORD = 0xFFFFFFFF  # uint32 words are kept in int64


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


def linf_noise(seeds: Tensor, images: Tensor, size: int, eps: float) -> Tensor:
    """A draw of U(-eps, eps) for each number: float32 [N, size], as `clipfast.noise` defines it."""
    grid = (_draw(seeds, images, size) >> 8) - (1 << 23)
    # One rounding of the factor and one of the product, in float32, as on every device.
    return grid.float() * torch.tensor(eps * 2.0**-23, dtype=torch.float32, device=seeds.device)


def l2_noise(seeds: Tensor, images: Tensor, size: int, eps: float) -> Tensor:
    """A normal draw of a length from U(0, eps): float32 [N, size], as `clipfast.noise` defines it."""
    pairs = (size + 1) // 2
    words = (_draw(seeds, images, 2 * pairs) >> 8).unflatten(1, (pairs, 2))
    first, second = (words[..., 0] + 1).float() * 2.0**-24, words[..., 1].float() * 2.0**-24
    length, angle = (-2 * first.log()).sqrt(), 2 * math.pi * second
    normal = torch.stack([length * angle.cos(), length * angle.sin()], dim=-1).flatten(1)[:, :size]
    radius = eps * (_draw(seeds, images, 1, stream=1) >> 8).float() * 2.0**-24
    return normal * (radius / normal.norm(dim=1, keepdim=True))


def _draw(seeds: Tensor, images: Tensor, size: int, stream: int = 0) -> Tensor:
    """`size` words of Philox 4x32-10 for each image: int64 [N, size]. See `clipfast.noise`."""
    blocks = torch.arange((size + 3) // 4, device=seeds.device)
    k0, k1 = (seeds & _WORD)[:, None], (seeds >> 32 & _WORD)[:, None]
    c0, c1 = blocks[None], (images & _WORD)[:, None]
    c2, c3 = torch.full_like(c1, stream), torch.zeros_like(c1)
    for r in range(10):
        # The product's bits are right though int64 overflows, and the shift's sign bits are cut off.
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1 = (p1 >> 32 & _WORD) ^ c1 ^ (k0 + r * 0x9E3779B9 & _WORD), p1 & _WORD
        c2, c3 = (p0 >> 32 & _WORD) ^ c3 ^ (k1 + r * 0xBB67AE85 & _WORD), p0 & _WORD
    return torch.stack(torch.broadcast_tensors(c0, c1, c2, c3), dim=-1).flatten(1)[:, :size]
