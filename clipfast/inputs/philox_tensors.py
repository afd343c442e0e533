"""The noise of `clipfast.inputs.philox` in torch, on any device and in any graph."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["l2_noise", "linf_noise"]

_WORD = 0xFFFFFFFF  # uint32 words are kept in int64


def linf_noise(seeds: Tensor, images: Tensor, size: int, eps: float) -> Tensor:
    """Draws U(-eps, eps) for each number, as `clipfast.inputs.philox.linf_noise` does.

    Args:
        seeds: int64 [N], the 64 bits of each image's key.
        images: int64 [N], each image's index under its key.
        size: Numbers for each image.
        eps: Bound of the noise, in [0, 1] pixel units.

    Returns:
        The noise, float32 [N, size].
    """
    grid = (_draw(seeds, images, size) >> 8) - (1 << 23)
    # The factor and the product are rounded once each, in float32, as on every device.
    return grid.float() * torch.tensor(eps * 2.0**-23, dtype=torch.float32, device=seeds.device)


def l2_noise(seeds: Tensor, images: Tensor, size: int, eps: float) -> Tensor:
    """Draws a normal direction of a length of U(0, eps), as `clipfast.inputs.philox.l2_noise` does.

    Args:
        seeds: int64 [N], the 64 bits of each image's key.
        images: int64 [N], each image's index under its key.
        size: Numbers for each image.
        eps: Bound of the length, in [0, 1] pixel units.

    Returns:
        The noise, float32 [N, size].
    """
    pairs = (size + 1) // 2
    words = (_draw(seeds, images, 2 * pairs) >> 8).unflatten(1, (pairs, 2))
    first, second = (words[..., 0] + 1).float() * 2.0**-24, words[..., 1].float() * 2.0**-24
    length, angle = (-2 * first.log()).sqrt(), 2 * math.pi * second
    normal = torch.stack([length * angle.cos(), length * angle.sin()], dim=-1).flatten(1)[:, :size]
    radius = eps * (_draw(seeds, images, 1, stream=1) >> 8).float() * 2.0**-24
    return normal * (radius / normal.norm(dim=1, keepdim=True))


def _draw(seeds: Tensor, images: Tensor, size: int, stream: int = 0) -> Tensor:
    """`size` words of Philox 4x32-10 for each image: int64 [N, size]. See `clipfast.inputs.philox`."""
    blocks = torch.arange((size + 3) // 4, device=seeds.device)
    k0, k1 = (seeds & _WORD)[:, None], (seeds >> 32 & _WORD)[:, None]
    c0, c1 = blocks[None], (images & _WORD)[:, None]
    c2, c3 = torch.full_like(c1, stream), torch.zeros_like(c1)
    for r in range(10):
        # int64 overflows, but the product's bits are right, and the mask cuts off the shift's sign bits.
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1 = (p1 >> 32 & _WORD) ^ c1 ^ (k0 + r * 0x9E3779B9 & _WORD), p1 & _WORD
        c2, c3 = (p0 >> 32 & _WORD) ^ c3 ^ (k1 + r * 0xBB67AE85 & _WORD), p0 & _WORD
    return torch.stack(torch.broadcast_tensors(c0, c1, c2, c3), dim=-1).flatten(1)[:, :size]
