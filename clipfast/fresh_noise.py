"""Noise that is drawn once and never again, on the pixels' device."""

from __future__ import annotations

import secrets

import torch
from torch import Tensor

from .config import CounterattackConfig

__all__ = ["fresh_noise"]


def fresh_noise(pixels: Tensor, config: CounterattackConfig) -> Tensor:
    """A start for each of N images: float32, shaped as the pixels [N, 3, H, W].

    U(-eps, eps) per pixel; in l2 a normal direction of a length from U(0, eps), as TTC starts. Drawn by
    torch's generator, seeded by the operating system at each call: much faster than `clipfast.noise`, whose
    draws can be made again.
    """
    generator = torch.Generator(pixels.device).manual_seed(secrets.randbits(63))
    noise = torch.empty(pixels.shape, device=pixels.device)
    if config.norm == "linf":
        return noise.uniform_(-config.eps, config.eps, generator=generator)
    noise.normal_(generator=generator)
    radius = torch.empty(len(pixels), device=pixels.device).uniform_(0, config.eps, generator=generator)
    return noise * (radius / noise.flatten(1).norm(dim=1))[:, None, None, None]
