"""The noisy start: pixels and their noise, in the layout that the encoder reads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..config import Norm
from ..errors import InputError
from ..inputs.philox_tensors import l2_noise, linf_noise
from ..inputs.tensors import as_unit
from .arithmetic import into_bounds
from .checks import EXACT, LOW, check_norm, check_tensor
from .dispatch import Implementation, form
from .registry import declare

__all__ = ["perturb"]


def perturb(
    pixels: Tensor,
    noise: Tensor | None = None,
    *,
    seeds: Tensor | None = None,
    images: Tensor | None = None,
    eps: float,
    patch: tuple[int, int] | None = None,
    norm: Norm = "linf",
    implementation: Implementation = "auto",
) -> tuple[Tensor, Tensor]:
    """Computes x, the pixels, and d0, noise moved so that x + d0 is in [0, 1] (TTC, section 3).

    TTC is arXiv 2503.03613. The noise is either given, or drawn under `seeds` and `images` by Philox
    4x32-10 as `clipfast.inputs.philox` defines it: U(-eps, eps) per pixel, the same to the bit in all
    forms; in l2, from the same words, a normal direction of a length of U(0, eps).

    A pixel that is NaN or outside of [0, 1] is NaN in both results, so that its image's drift is NaN.

    Args:
        pixels: [B, 3, H, W], uint8 (taken as pixels / 255) or float in [0, 1].
        noise: float32, shaped as the pixels, in [0, 1] pixel units; None if it is to be drawn.
        seeds: int64 [B], the 64 bits of each image's key. With `images`, in place of noise.
        images: int64 [B], each image's index under its key.
        eps: Budget of noise that is drawn, in [0, 1] pixel units.
        patch: (P, Q), for the layout [B, patches, 3 * P * Q]; None for [B, 3, H, W].
        norm: "linf" or "l2".
        implementation: Of the operator, see `clipfast.ops`.

    Returns:
        x and d0, float32, in the layout. With float64 noise both are float64.

    Raises:
        InputError: If a tensor does not fit, patches do not divide the pixels, the norm is unknown, there
            are both noise and keys or neither, or a named implementation is not available.
    """
    _check(pixels, noise, seeds, images, patch, norm)
    run = form(_OPERATOR, implementation, pixels, noise)
    return run(pixels, noise, seeds, images, eps, *(patch or (0, 0)), norm == "l2")


def _check(
    pixels: Tensor,
    noise: Tensor | None,
    seeds: Tensor | None,
    images: Tensor | None,
    patch: tuple[int, int] | None,
    norm: str,
) -> None:
    check_tensor("pixels", pixels, None, (torch.uint8, *LOW, *EXACT), pixels)
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        raise InputError(f"perturb: expected pixels [B, 3, H, W], got {list(pixels.shape)}")
    height, width = pixels.shape[2:]
    if patch is not None and not _divides(patch, height, width):
        raise InputError(f"perturb: expected patches that divide {height} x {width} pixels, got {patch}")
    check_norm("perturb", norm)
    if noise is not None:
        if seeds is not None or images is not None:
            raise InputError("perturb: expected noise, or seeds and images, got both")
        exact = (torch.float64,) if pixels.dtype == torch.float64 else EXACT
        check_tensor("noise", noise, list(pixels.shape), exact, pixels)
    elif seeds is None or images is None:
        raise InputError("perturb: expected noise, or seeds and images, got neither")
    else:
        for name, tensor in (("seeds", seeds), ("images", images)):
            check_tensor(name, tensor, [pixels.shape[0]], (torch.int64,), pixels)


def _divides(patch: object, height: int, width: int) -> bool:
    match patch:
        case int(rows), int(columns):
            return min(rows, columns) >= 1 and height % rows == 0 and width % columns == 0
    return False


def _naive(
    pixels: Tensor,
    noise: Tensor | None,
    seeds: Tensor | None,
    images: Tensor | None,
    eps: float,
    patch_height: int,
    patch_width: int,
    l2: bool,
) -> tuple[Tensor, Tensor]:
    if noise is None:
        assert seeds is not None
        assert images is not None
        draw = l2_noise if l2 else linf_noise
        noise = draw(seeds, images, pixels.shape[1:].numel(), eps).reshape(pixels.shape)
    x = as_unit(pixels).to(noise.dtype)
    if pixels.dtype != torch.uint8:
        x = torch.where((x >= 0) & (x <= 1), x, torch.nan)
    d = into_bounds(noise, x)
    if not patch_height:
        return x, d
    return _patches(x, patch_height, patch_width), _patches(d, patch_height, patch_width)


def _patches(pixels: Tensor, height: int, width: int) -> Tensor:
    """[N, 3, H, W] -> [N, patches, 3 * height * width]."""
    patches = pixels.unflatten(3, (-1, width)).unflatten(2, (-1, height))
    return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2).contiguous()


def _fake(pixels: Tensor, noise: Tensor | None, *others: Any) -> tuple[Tensor, Tensor]:
    *_, patch_height, patch_width, _ = others
    shape = pixels.shape
    if patch_height:
        patches = (shape[2] // patch_height) * (shape[3] // patch_width)
        shape = (shape[0], patches, shape[1] * patch_height * patch_width)
    dtype = torch.float32 if noise is None else noise.dtype
    return pixels.new_empty(shape, dtype=dtype), pixels.new_empty(shape, dtype=dtype)


# patch_height 0 means the layout of the pixels. l2 is False for l-inf.
_OPERATOR = declare(
    "perturb(Tensor pixels, Tensor? noise, Tensor? seeds, Tensor? images, float eps, "
    "int patch_height, int patch_width, bool l2) -> (Tensor x, Tensor d)",
    fake=_fake,
    naive=_naive,
    kernels=("triton", "cpp"),
)
