"""What a batch of pixels and its noise must look like in torch; everything else is an InputError."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import CounterattackConfig
from ..errors import InputError, out_of_range
from .rules import check_noise_shape, check_noise_size, check_shape

__all__ = ["as_unit", "check_noise", "check_pixels", "check_range"]


def check_pixels(pixels: Tensor, size: tuple[int, int], *, on_gpu: bool) -> Tensor:
    """Checks a batch of pixels.

    Args:
        pixels: [N, 3, H, W], uint8 or float in [0, 1].
        size: (H, W).
        on_gpu: Whether to read values on a GPU too, which waits for them. If not, `clipfast.ops.perturb`
            is to mark bad values there, and `check_range` says afterwards what is wrong.

    Returns:
        The pixels as uint8 or float32, contiguous.

    Raises:
        InputError: For another type, rank, channel count, size or dtype, for values outside of [0, 1],
            and for NaN or infinity.
    """
    if not isinstance(pixels, Tensor):
        raise InputError(f"expected a torch tensor of pixels, got {type(pixels).__name__}")
    check_shape(pixels.shape, size)
    if pixels.dtype == torch.uint8:
        return pixels.contiguous()
    if not pixels.is_floating_point():
        raise InputError(f"expected uint8 or float pixels, got {pixels.dtype}")
    if on_gpu or not pixels.is_cuda:
        check_range(pixels.detach())
    return pixels.float().contiguous()


def as_unit(pixels: Tensor) -> Tensor:
    """Returns uint8 pixels as float32 in [0, 1], and float pixels as they are."""
    if pixels.dtype != torch.uint8:
        return pixels
    return pixels / torch.full(
        (), 255.0, device=pixels.device
    )  # CUDA multiplies by a Python number's inverse


def check_range(pixels: Tensor) -> None:
    """Checks that float pixels [N, 3, H, W] are in [0, 1].

    Raises:
        InputError: For values outside of [0, 1], and for NaN or infinity.
    """
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
    """Checks noise that a caller gave.

    Args:
        noise: float, shaped as the pixels, within eps.
        pixels: [N, 3, H, W].
        config: Gives eps and the norm.

    Returns:
        The noise as float32, contiguous, detached, on the pixels' device.

    Raises:
        InputError: For another type, dtype or shape, and for noise beyond eps, NaN among it.
    """
    if not isinstance(noise, Tensor) or not noise.is_floating_point():
        got = noise.dtype if isinstance(noise, Tensor) else type(noise).__name__
        raise InputError(f"expected noise as a float tensor, got {got}")
    check_noise_shape(noise.shape, pixels.shape)
    noise = noise.detach().to(pixels.device, torch.float32).contiguous()
    if noise.numel():
        size = noise.abs().amax() if config.norm == "linf" else noise.flatten(1).norm(dim=1).amax()
        check_noise_size(size.item(), config)
    return noise
