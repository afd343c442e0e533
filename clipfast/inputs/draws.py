"""Noise of torch tensors: keys taken to a device, and the noise that is drawn under them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import CounterattackConfig
from .noise import Noise, fresh_keys, seeded_keys
from .philox_tensors import l2_noise, linf_noise

__all__ = ["draw_noise", "fresh", "seeded", "to_tensors", "torch_seed"]


def to_tensors(keys: Noise[NDArray[Any]], device: torch.device) -> Noise[Tensor]:
    """Takes keys to a device as int64 tensors, bit for bit.

    Args:
        keys: Seeds, uint64 [N], and images, uint32 [N].
        device: Where the tensors go.
    """
    assert keys.seeds is not None
    assert keys.images is not None
    arrays = keys.seeds.view(np.int64), keys.images.astype(np.int64)
    return Noise(None, *(torch.from_numpy(array).to(device) for array in arrays))


def fresh(n: int, device: torch.device) -> Noise[Tensor]:
    """Makes keys that were never used, each from the operating system.

    Args:
        n: Number of images.
        device: Where the keys go.
    """
    return to_tensors(fresh_keys(n), device)


def seeded(seed: int, first_image: int, n: int, device: torch.device) -> Noise[Tensor]:
    """Makes the keys of consecutive images under one seed.

    Args:
        seed: From 0 to 2^64 - 1.
        first_image: The first image's index under the seed.
        n: Number of images.
        device: Where the keys go.
    """
    return to_tensors(seeded_keys(seed, first_image, n), device)


def torch_seed() -> int:
    """Draws a seed from torch's generator, for attackers, whose noise follows from its state."""
    return int(torch.randint(2**62, ()))


def draw_noise(noise: Noise[Tensor], shape: torch.Size, config: CounterattackConfig) -> Tensor:
    """Returns the numbers of noise that is given or that keys name.

    Args:
        noise: Numbers, or seeds and images, both int64 [N].
        shape: [N, 3, H, W].
        config: Gives eps and the norm.

    Returns:
        The noise, float32 [N, 3, H, W], in [0, 1] pixel units. It is within eps, but not moved into the
            bounds of pixels.
    """
    if noise.given is not None:
        return noise.given
    assert noise.seeds is not None
    assert noise.images is not None
    draw = l2_noise if config.norm == "l2" else linf_noise
    return draw(noise.seeds, noise.images, shape[1:].numel(), config.eps).reshape(shape)
