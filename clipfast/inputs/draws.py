"""Noise that is named and not yet drawn: what an operator draws where it is used, and the same anywhere."""

from __future__ import annotations

import secrets
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..config import CounterattackConfig
from .philox import content_seeds
from .philox_tensors import l2_noise, linf_noise
from .tensors import as_unit

__all__ = ["Draw", "by_content", "draw_noise", "fresh", "seeded", "torch_seed"]


class Draw(NamedTuple):
    """A draw of Philox noise for each of N images: see `clipfast.ops.perturb`."""

    seeds: Tensor  # int64 [N]: the 64 bits of an image's key
    images: Tensor  # int64 [N]: the image's index under it


def fresh(n: int, device: torch.device) -> Draw:
    """Draws that were never made: a key from the operating system."""
    return seeded(secrets.randbits(64), 0, n, device)


def torch_seed() -> int:
    """A seed from torch's generator, for attackers, whose draws follow from its state."""
    return int(torch.randint(2**62, ()))


def seeded(seed: int, first_image: int, n: int, device: torch.device) -> Draw:
    """The draws of the images first_image.. under one key; seed: from 0 to 2^64 - 1."""
    signed = seed - (seed >> 63 << 64)
    images = torch.arange(first_image, first_image + n, device=device)
    return Draw(torch.full((n,), signed, dtype=torch.int64, device=device), images)


def by_content(pixels: Tensor, key: bytes) -> Draw:
    """Draws that an image's pixels [N, 3, H, W], uint8 or float, and a secret key decide."""
    pictures = as_unit(pixels).detach().cpu().numpy()
    seeds = torch.from_numpy(content_seeds(pictures, key).view(np.int64)).to(pixels.device)
    return Draw(seeds, torch.zeros_like(seeds))


def draw_noise(draw: Draw, shape: torch.Size, config: CounterattackConfig) -> Tensor:
    """The noise itself: float32 of a shape [N, 3, H, W], within eps and not moved into any bounds."""
    draws = l2_noise if config.norm == "l2" else linf_noise
    return draws(*draw, shape[1:].numel(), config.eps).reshape(shape)
