"""Noise of torch tensors: keys taken to a device, and the draws that they name."""

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
    """Keys as int64 tensors, bit for bit."""
    assert keys.seeds is not None
    assert keys.images is not None
    arrays = keys.seeds.view(np.int64), keys.images.astype(np.int64)
    return Noise(None, *(torch.from_numpy(array).to(device) for array in arrays))


def fresh(n: int, device: torch.device) -> Noise[Tensor]:
    """Draws that were never made: a key from the operating system."""
    return to_tensors(fresh_keys(n), device)


def seeded(seed: int, first_image: int, n: int, device: torch.device) -> Noise[Tensor]:
    """The draws of the images first_image.. under one key; seed: from 0 to 2^64 - 1."""
    return to_tensors(seeded_keys(seed, first_image, n), device)


def torch_seed() -> int:
    """A seed from torch's generator, for attackers, whose draws follow from its state."""
    return int(torch.randint(2**62, ()))


def draw_noise(noise: Noise[Tensor], shape: torch.Size, config: CounterattackConfig) -> Tensor:
    """The numbers: float32 of a shape [N, 3, H, W], within eps and not moved into any bounds."""
    if noise.given is not None:
        return noise.given
    assert noise.seeds is not None
    assert noise.images is not None
    draw = l2_noise if config.norm == "l2" else linf_noise
    return draw(noise.seeds, noise.images, shape[1:].numel(), config.eps).reshape(shape)
