"""What a batch of pixels and its noise must look like; everything else is an InputError."""

from __future__ import annotations

import torch
from torch import Tensor

from .config import CounterattackConfig
from .errors import InputError, out_of_range

__all__ = ["check_noise", "check_pixels"]


def check_pixels(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Checks a batch [N, 3, *size], uint8 or float in [0, 1], and returns it as float32 in [0, 1].

    Raises InputError for another type, rank, channel count, size or dtype, for values outside [0, 1], and
    for NaN or infinity.
    """
    if not isinstance(pixels, Tensor):
        raise InputError(f"expected a torch tensor of pixels, got {type(pixels).__name__}")
    wanted = f"[N, 3, {size[0]}, {size[1]}]"
    got = list(pixels.shape)
    if pixels.ndim == 3:
        raise InputError(f"expected pixels {wanted}, got {got}: one image needs a batch axis, pixels[None]")
    if pixels.ndim != 4:
        raise InputError(f"expected pixels {wanted}, got {got}")
    if pixels.shape[1] != 3:
        hint = ": channels come first, permute(0, 3, 1, 2)" if pixels.shape[3] == 3 else ""
        raise InputError(f"expected pixels {wanted}, got {got}{hint}")
    if tuple(pixels.shape[2:]) != size:
        raise InputError(f"expected pixels {wanted}, got {got}: clipfast.preprocess resizes and crops")
    if pixels.dtype == torch.uint8:
        return pixels.float() / 255
    if not pixels.is_floating_point():
        raise InputError(f"expected uint8 or float pixels, got {pixels.dtype}")
    if pixels.numel():
        _check_range(pixels.detach())
    return pixels.float()


def _check_range(pixels: Tensor) -> None:
    low, high = (bound.item() for bound in pixels.aminmax())
    if low >= 0 and high <= 1:  # false for NaN
        return
    if not pixels.isfinite().all():
        image = (~pixels.isfinite()).flatten(1).any(1).nonzero()[0].item()
        raise InputError(f"expected finite pixels, got NaN or infinity in image {image}")
    raise InputError(out_of_range(low, high))


def check_noise(noise: Tensor, pixels: Tensor, config: CounterattackConfig) -> Tensor:
    """Checks a caller's noise, float, shaped as the pixels, within eps; returns it float32 on their device.

    Raises InputError otherwise.
    """
    if not isinstance(noise, Tensor) or not noise.is_floating_point():
        got = noise.dtype if isinstance(noise, Tensor) else type(noise).__name__
        raise InputError(f"expected noise as a float tensor, got {got}")
    if noise.shape != pixels.shape:
        raise InputError(f"expected noise of the pixels' shape {list(pixels.shape)}, got {list(noise.shape)}")
    noise = noise.detach().to(pixels.device, torch.float32)
    if noise.numel():
        size = noise.abs().amax() if config.norm == "linf" else noise.flatten(1).norm(dim=1).amax()
        # One part in a million for the rounding of eps; NaN compares false.
        if not size.item() <= config.eps * (1 + 1e-6):
            raise InputError(
                f"expected noise within eps = {config.eps:g} ({config.norm}), got {size.item():g}"
            )
    return noise
