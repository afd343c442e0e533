"""Counter-based noise: image i's draw depends on its key and i alone, never on the batch around it.

The generator is Philox 4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2,
3", SC 2011). Its key is (seed low, seed high). Its counter is (index in the image // 4, image, stream,
0), and the index mod 4 chooses one of the four words.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["content_seeds", "l2_noise", "linf_noise", "philox"]

Words = NDArray[np.uint32]
Word = Words | np.uint32
Seeds = NDArray[np.uint64]

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox(counter: tuple[Word, Word, Word, Word], key: tuple[Word, Word]) -> tuple[Words, ...]:
    """Computes one block of Philox 4x32-10: four uint32 words from a counter and a key.

    Args:
        counter: Four uint32 words or arrays of them.
        key: Two uint32 words or arrays of them. All six are broadcast together.
    """
    words = np.broadcast_arrays(*counter, *key)
    c0, c1, c2, c3 = (word.astype(np.uint64) for word in words[:4])  # own copies, to work in place
    k0, k1 = (np.asarray(word, np.uint64) for word in key)
    high = np.empty_like(c0)
    for r in range(10):
        c0 *= _M0
        c2 *= _M1
        c1 ^= (k0 + np.uint64(r * _W0)) & _LOW
        c1 ^= np.right_shift(c2, _HALF, out=high)
        c3 ^= (k1 + np.uint64(r * _W1)) & _LOW
        c3 ^= np.right_shift(c0, _HALF, out=high)
        c0 &= _LOW
        c2 &= _LOW
        c0, c1, c2, c3 = c1, c2, c3, c0
    return tuple(word.astype(np.uint32) for word in (c0, c1, c2, c3))


def _draw(seeds: Seeds, images: Words, size: int, stream: int = 0) -> Words:
    """`size` words for each image: uint32 [N, size]."""
    drawn = np.empty((len(seeds), math.ceil(size / 4), 4), np.uint32)
    blocks = np.arange(drawn.shape[1], dtype=np.uint32)
    keys = np.stack([seeds & _LOW, seeds >> _HALF], axis=1).astype(np.uint32)
    # One image at a time, whose words stay in the cache.
    for row, image, (low, high) in zip(drawn, images, keys, strict=True):
        counter = (blocks, image, np.uint32(stream), np.uint32(0))
        for lane, words in enumerate(philox(counter, (low, high))):
            row[:, lane] = words
    return drawn.reshape(len(seeds), 4 * blocks.size)[:, :size]


def linf_noise(seeds: Seeds, images: Words, shape: tuple[int, int, int], eps: float) -> NDArray[np.float32]:
    """Draws U(-eps, eps) per pixel.

    A word r becomes float32((r >> 8) - 2^23) * float32(eps * 2^-23), equal to the bit on every device.

    Args:
        seeds: uint64 [N], a key for each image.
        images: uint32 [N], each image's index under its key.
        shape: (3, H, W).
        eps: Bound of the noise, in [0, 1] pixel units.

    Returns:
        The noise, float32 [N, 3, H, W].
    """
    words = _draw(seeds, images, math.prod(shape))
    words >>= np.uint32(8)
    words -= np.uint32(1 << 23)  # wraps below zero: read as int32 from here
    noise = words.view(np.int32).astype(np.float32)
    noise *= np.float32(eps * 2.0**-23)
    return noise.reshape(-1, *shape)


def l2_noise(seeds: Seeds, images: Words, shape: tuple[int, int, int], eps: float) -> NDArray[np.float32]:
    """Draws a normal direction (Box-Muller) of a length of U(0, eps), as TTC starts in l2.

    The length comes from stream 1 of the same key.

    Args:
        seeds: uint64 [N], a key for each image.
        images: uint32 [N], each image's index under its key.
        shape: (3, H, W).
        eps: Bound of the length, in [0, 1] pixel units.

    Returns:
        The noise, float32 [N, 3, H, W].
    """
    size = math.prod(shape)
    pairs = (size + 1) // 2
    words = _draw(seeds, images, 2 * pairs).reshape(len(seeds), pairs, 2)
    first = ((words[..., 0] >> np.uint32(8)) + 1.0) * 2.0**-24  # (0, 1], so that its log is finite
    second = (words[..., 1] >> np.uint32(8)) * 2.0**-24
    length, angle = np.sqrt(-2 * np.log(first)), 2 * np.pi * second
    normal = np.stack([length * np.cos(angle), length * np.sin(angle)], axis=-1)
    normal = normal.reshape(len(seeds), 2 * pairs)[:, :size]
    radius = eps * (_draw(seeds, images, 1, stream=1) >> np.uint32(8)) * 2.0**-24
    normal *= radius / np.linalg.norm(normal, axis=1, keepdims=True)
    return normal.astype(np.float32).reshape(-1, *shape)


def content_seeds(pixels: NDArray[np.float32], key: bytes) -> Seeds:
    """Computes a 64-bit seed for each image from its pixels and a secret key.

    The seed is a keyed BLAKE2b over the values in steps of 1/65535, so that uint8 and float forms of a
    picture have the same seed. -0.0, denormal numbers and the last bits of other values change nothing. A
    value that is one step off changes the seed.

    Args:
        pixels: float32 [N, 3, H, W] in [0, 1].
        key: 16 to 64 secret bytes.

    Returns:
        The seeds, uint64 [N].
    """
    digests = [
        hashlib.blake2b(np.rint(image * 65535.0).astype("<u2").tobytes(), key=key, digest_size=8).digest()
        for image in pixels
    ]
    return np.array([int.from_bytes(digest, "little") for digest in digests], np.uint64)
