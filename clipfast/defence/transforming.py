"""Transforms of pictures as products with constant matrices, which every format and device has.

All but the low-pass filter change rows and columns separately: t(x) = R x C in each plane, with R [H, H]
and C [W, W]. The low-pass filter has a round cut-off, and so takes the discrete Fourier transform, as
products too.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..config import CounterattackConfig
from ..transforms import Transform, crop_window, gaussian_weights, parse_chain

__all__ = ["PictureMap", "picture_map", "transforms_of"]

PictureMap = Callable[[Tensor], Tensor]  # float [N, 3, H, W] in [0, 1] -> the same


def transforms_of(
    config: CounterattackConfig,
    size: tuple[int, int],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> dict[str, PictureMap]:
    """Makes all transforms that a config names, each with its constants.

    Args:
        config: Names the transforms.
        size: (height, width) of the pictures in pixels.
        device: Where the constants are.
        dtype: Of the constants and the pictures.

    Returns:
        The transforms by their text.

    Raises:
        InputError: If a transform does not fit the size.
    """
    return {name: picture_map(name, size, device, dtype) for name in config.transforms()}


def picture_map(
    transform: str, size: tuple[int, int], device: torch.device, dtype: torch.dtype = torch.float32
) -> PictureMap:
    """Makes t(x), clamped to [0, 1], which a low-pass filter or the rounding of sums may leave.

    Args:
        transform: A transform or several in a row, as text; see `clipfast.transforms`.
        size: (height, width) of the pictures in pixels.
        device: Where the constants are.
        dtype: Of the constants and the pictures.

    Returns:
        A function of pictures, [N, 3, H, W] in [0, 1], that gives the same.

    Raises:
        InputError: If the transform is unknown, or does not fit the size.
    """
    maps: list[PictureMap] = []
    for is_low_pass, steps in itertools.groupby(parse_chain(transform), lambda step: step.name == "low_pass"):
        if is_low_pass:
            maps += [_low_pass(step.number or 0.0, size, device, dtype) for step in steps]
        else:
            maps.append(_product([step for step in steps if step.name != "identity"], size, device, dtype))
    return lambda pixels: functools.reduce(lambda x, change: change(x), maps, pixels)


def _product(
    steps: list[Transform], size: tuple[int, int], device: torch.device, dtype: torch.dtype
) -> PictureMap:
    """Transforms in a row that change rows and columns separately, as one."""
    if not steps:
        return lambda pixels: pixels
    matrices = [_matrices(step, size) for step in steps]
    rows, columns = (
        functools.reduce(lambda before, after: after @ before, side).to(device, dtype)
        for side in zip(*matrices, strict=True)
    )
    columns = columns.T.contiguous()
    return lambda pixels: (rows @ pixels @ columns).clamp(0, 1)


def _matrices(step: Transform, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The matrices that multiply columns (of length H) and rows (of W): float64 [H, H] and [W, W]."""
    step.check_size(size)
    if step.name == "mirror":
        down, across = (torch.eye(side, dtype=torch.float64) for side in size)
        return down, across.flip(0)
    if step.name == "crop":
        top, left, height, width = crop_window(step, size)
        return _enlarging(size[0], top, height), _enlarging(size[1], left, width)
    assert step.name in ("blur", "gaussian"), step
    weights = [1 / 3] * 3 if step.name == "blur" else gaussian_weights(step.number or 0.0)
    return _filtering(size[0], weights), _filtering(size[1], weights)


def _filtering(side: int, weights: list[float]) -> Tensor:
    """A filter of replicated edges as a matrix [side, side]."""
    reach = len(weights) // 2
    matrix = torch.zeros(side, side, dtype=torch.float64)
    for i in range(side):
        for offset, weight in enumerate(weights, -reach):
            matrix[i, min(max(i + offset, 0), side - 1)] += weight
    return matrix


def _enlarging(side: int, first: int, part: int) -> Tensor:
    """Bilinear enlarging of `part` pixels from `first` on to all `side`, by centres: [side, side]."""
    matrix = torch.zeros(side, side, dtype=torch.float64)
    for i in range(side):
        at = max((i + 0.5) * part / side - 0.5, 0.0)
        below = min(int(at), part - 1)
        above = min(below + 1, part - 1)
        matrix[i, first + below] += 1 - (at - below)
        matrix[i, first + above] += at - below
    return matrix


def _low_pass(radius: float, size: tuple[int, int], device: torch.device, dtype: torch.dtype) -> PictureMap:
    """Removes frequencies beyond a circle of `radius` cycles a picture in the 2-D spectrum."""
    rows, columns = (torch.arange(side).minimum(side - torch.arange(side)) for side in size)
    kept = (rows[:, None] ** 2 + columns**2 <= radius**2).to(device, dtype)
    down, down_i = (part.to(device, dtype) for part in _fourier(size[0]))
    across, across_i = (part.to(device, dtype) for part in _fourier(size[1]))

    def low_passed(pixels: Tensor) -> Tensor:
        # F x G in real numbers. Both matrices are symmetric, and their conjugates invert them.
        half, half_i = down @ pixels, down_i @ pixels
        spectrum = (half @ across - half_i @ across_i) * kept
        spectrum_i = (half @ across_i + half_i @ across) * kept
        back = down @ spectrum + down_i @ spectrum_i
        back_i = down @ spectrum_i - down_i @ spectrum
        return (back @ across + back_i @ across_i).clamp(0, 1)

    return low_passed


def _fourier(side: int) -> tuple[Tensor, Tensor]:
    """The unitary discrete Fourier transform [side, side] in float64: real and imaginary parts."""
    step = torch.arange(side)
    angle = -2 * math.pi * (step[:, None] * step % side).double() / side
    return angle.cos() / math.sqrt(side), angle.sin() / math.sqrt(side)
