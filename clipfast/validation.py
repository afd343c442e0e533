"""What a batch of pixels and its noise must look like; everything else is an InputError."""

from __future__ import annotations

import torch
from torch import Tensor

from .config import CounterattackConfig
from .errors import InputError, out_of_range

__all__ = ["as_unit", "check_noise", "check_pixels", "check_range"]


def check_pixels(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Checks a batch [N, 3, *size], uint8 or float in [0, 1], and returns it as uint8 or float32, contiguous.

    Raises InputError for another type, rank, channel count, size or dtype, for values outside [0, 1], and
    for NaN or infinity. Values on a GPU are not read, which would wait for them: `perturb` marks them, and
    `check_range` says what is wrong.
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
        return pixels.contiguous()
    if not pixels.is_floating_point():
        raise InputError(f"expected uint8 or float pixels, got {pixels.dtype}")
    if not pixels.is_cuda:
        check_range(pixels.detach())
    return pixels.float().contiguous()


def as_unit(pixels: Tensor) -> Tensor:
    """uint8 or float32 pixels as float32 in [0, 1]."""
    if pixels.dtype != torch.uint8:
        return pixels
    return pixels / torch.full(
        (), 255.0, device=pixels.device
    )  # CUDA multiplies by a Python number's inverse


def check_range(pixels: Tensor) -> None:
    """Raises InputError for float pixels [N, 3, H, W] outside [0, 1], NaN or infinity."""
    if not pixels.numel():
        return
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
    noise = noise.detach().to(pixels.device, torch.float32).contiguous()
    if noise.numel():
        size = noise.abs().amax() if config.norm == "linf" else noise.flatten(1).norm(dim=1).amax()
        # One part in a million for the rounding of eps; NaN compares false.
        if not size.item() <= config.eps * (1 + 1e-6):
            raise InputError(
                f"expected noise within eps = {config.eps:g} ({config.norm}), got {size.item():g}"
            )
    return noise
