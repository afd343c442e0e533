"""Pixels, noise and thresholds for exported classifiers, checked and drawn in numpy.

The counterpart of `clipfast.inputs.tensors` and `clipfast.inputs.draws`, without torch.
"""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..config import CounterattackConfig
from ..errors import InputError, out_of_range
from .noise import Noise
from .philox import l2_noise, linf_noise
from .rules import check_noise_shape, check_noise_size, check_shape

__all__ = [
    "as_unit",
    "check_noise",
    "check_pixels",
    "draw_noise",
    "fresh_noise",
    "thresholds",
]

Pixels = NDArray[np.uint8] | NDArray[np.float32]


def check_pixels(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Checks a batch of pixels.

    Args:
        pixels: [N, 3, H, W], uint8 or float in [0, 1].
        size: (H, W).

    Returns:
        The pixels as uint8 or float32, contiguous.

    Raises:
        InputError: For another type, rank, channel count, size or dtype, for values outside of [0, 1],
            and for NaN or infinity.
    """
    if not isinstance(pixels, np.ndarray):
        raise InputError(f"expected a numpy array of pixels, got {type(pixels).__name__}")
    check_shape(pixels.shape, size)
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels, np.uint8)
    if pixels.dtype.kind != "f":
        raise InputError(f"expected uint8 or float pixels, got {pixels.dtype}")
    if pixels.size:
        low, high = pixels.min(), pixels.max()
        if not (low >= 0 and high <= 1):  # false for NaN
            finite = np.isfinite(pixels).all(axis=(1, 2, 3))
            if not finite.all():
                raise InputError(f"expected finite pixels, got NaN or infinity in image {finite.argmin()}")
            raise InputError(out_of_range(float(low), float(high)))
    return np.ascontiguousarray(pixels, np.float32)


def as_unit(pixels: Pixels) -> NDArray[np.float32]:
    """Returns uint8 or float32 pixels as float32 in [0, 1]."""
    if pixels.dtype == np.uint8:
        return np.divide(pixels, np.float32(255), dtype=np.float32)
    return pixels.astype(np.float32, copy=False)


def check_noise(
    noise: NDArray[np.float32], pixels: Pixels, config: CounterattackConfig
) -> NDArray[np.float32]:
    """Checks noise that a caller gave.

    Args:
        noise: float, shaped as the pixels, within eps.
        pixels: [N, 3, H, W].
        config: Gives eps and the norm.

    Returns:
        The noise as float32, contiguous.

    Raises:
        InputError: For another type, dtype or shape, and for noise beyond eps, NaN among it.
    """
    if not isinstance(noise, np.ndarray) or noise.dtype.kind != "f":
        got = noise.dtype if isinstance(noise, np.ndarray) else type(noise).__name__
        raise InputError(f"expected noise as a float array, got {got}")
    check_noise_shape(noise.shape, pixels.shape)
    with np.errstate(over="ignore"):
        noise = np.ascontiguousarray(noise, np.float32)
    if noise.size:
        size = np.abs(noise).max() if config.norm == "linf" else _lengths(noise).max()
        check_noise_size(float(size), config)
    return noise


def fresh_noise(shape: tuple[int, ...], config: CounterattackConfig) -> NDArray[np.float32]:
    """Draws noise that nobody can draw again, under a key from the operating system.

    It is distributed as that of `clipfast.inputs.philox`: U(-eps, eps) per pixel, or in l2 a normal
    direction of a length of U(0, eps). It is drawn by numpy's own Philox, which is faster.

    Args:
        shape: [N, 3, H, W].
        config: Gives eps and the norm.

    Returns:
        The noise, float32 [N, 3, H, W], in [0, 1] pixel units.
    """
    generator = np.random.Generator(np.random.Philox(key=secrets.randbits(128)))
    if config.norm == "linf":
        noise = generator.random(shape, np.float32)
        noise -= np.float32(0.5)
        noise *= np.float32(2 * config.eps)
        return noise
    noise = generator.standard_normal(shape, np.float32)
    scale = config.eps * generator.random(len(noise)) / _lengths(noise)
    noise *= scale.astype(np.float32)[:, None, None, None]
    return noise


def draw_noise(
    keys: Noise[NDArray[Any]], shape: tuple[int, ...], config: CounterattackConfig
) -> NDArray[np.float32]:
    """Draws the noise that keys name: what `DefendedClassifier` draws for the same keys.

    Args:
        keys: Seeds, uint64 [N], and images, uint32 [N].
        shape: [N, 3, H, W].
        config: Gives eps and the norm.

    Returns:
        The noise, float32 [N, 3, H, W], in [0, 1] pixel units.
    """
    assert keys.seeds is not None
    assert keys.images is not None
    draw = l2_noise if config.norm == "l2" else linf_noise
    _, channels, height, width = shape
    return draw(keys.seeds, keys.images, (channels, height, width), config.eps)


def thresholds(tau_threshold: ArrayLike, n: int) -> NDArray[np.float32]:
    """Gives each of n images its threshold.

    Args:
        tau_threshold: One number for all images, or n numbers; finite in float32 and at least 0.
        n: Number of images.

    Returns:
        The thresholds, float32 [n].

    Raises:
        InputError: For another shape or dtype, and for a number that is not finite or is below 0.
    """
    given = np.asarray(tau_threshold)
    if given.dtype.kind not in "fiu" or given.shape not in ((), (n,)):
        raise InputError(
            f"expected tau_threshold as a number or [{n}] numbers, got {given.dtype} {list(given.shape)}"
        )
    with np.errstate(over="ignore"):
        values = given.astype(np.float32)
    if not (np.isfinite(values) & (values >= 0)).all():
        raise InputError(f"expected a finite tau_threshold of at least 0, got {tau_threshold!r}")
    return np.ascontiguousarray(np.broadcast_to(values, (n,)))


def _lengths(noise: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.sqrt(np.square(noise, dtype=np.float64).sum(axis=(1, 2, 3)))
