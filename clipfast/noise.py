"""Counter-based noise: image i's draw depends on its key and i alone, never on the batch around it.

Philox 4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011), keyed
by (seed low, seed high); the counter is (index in the image // 4, image, stream, 0), the lane index mod 4.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["content_seeds", "l2_noise", "linf_noise", "philox"]

Words = NDArray[np.uint32]
Seeds = NDArray[np.uint64]

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox(counter: tuple[Words, Words, Words, Words], key: tuple[Words, Words]) -> tuple[Words, ...]:
    """One block of Philox 4x32-10: four uint32 words from a counter and a key (broadcast together)."""
    c0, c1, c2, c3 = (np.asarray(word, np.uint64) for word in counter)
    k0, k1 = (np.asarray(word, np.uint64) for word in key)
    for r in range(10):
        p0, p1 = c0 * _M0, c2 * _M1
        round0, round1 = (k0 + np.uint64(r * _W0)) & _LOW, (k1 + np.uint64(r * _W1)) & _LOW
        c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ round0, p1 & _LOW, (p0 >> _HALF) ^ c3 ^ round1, p0 & _LOW
    return tuple(np.broadcast_arrays(*(word.astype(np.uint32) for word in (c0, c1, c2, c3))))


def _draw(seeds: Seeds, images: Words, size: int, stream: int = 0) -> Words:
    """`size` words for each image: uint32 [N, size]."""
    key = ((seeds & _LOW).astype(np.uint32)[:, None], (seeds >> _HALF).astype(np.uint32)[:, None])
    blocks = np.arange(math.ceil(size / 4), dtype=np.uint32)[None]
    zero = np.zeros((1, 1), np.uint32)
    lanes = philox((blocks, images[:, None], zero + np.uint32(stream), zero), key)
    return np.stack(lanes, axis=-1).reshape(len(seeds), 4 * blocks.size)[:, :size]


def linf_noise(seeds: Seeds, images: Words, shape: tuple[int, int, int], eps: float) -> NDArray[np.float32]:
    """A draw of U(-eps, eps) per pixel: float32 [N, *shape].

    seeds: uint64 [N], a key an image; images: uint32 [N], each image's index under its key. A word r
    becomes float32((r >> 8) - 2^23) * float32(eps * 2^-23), equal to the bit on every device.
    """
    words = _draw(seeds, images, math.prod(shape))
    grid = (words >> np.uint32(8)).astype(np.int32) - np.int32(1 << 23)
    return (grid.astype(np.float32) * np.float32(eps * 2.0**-23)).reshape(-1, *shape)


def l2_noise(seeds: Seeds, images: Words, shape: tuple[int, int, int], eps: float) -> NDArray[np.float32]:
    """A normal draw (Box-Muller) scaled to a length of U(0, eps), as TTC starts in l2: float32 [N, *shape].

    The length comes from stream 1 of the same key. Arguments as in `linf_noise`.
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
    """A 64-bit seed for each image from its pixels [N, 3, H, W] and a secret key: uint64 [N].

    Keyed BLAKE2b over the float32 values, so uint8 and float forms of a picture agree. One changed
    value redraws.
    """
    digests = [
        hashlib.blake2b(np.ascontiguousarray(image, np.float32).tobytes(), key=key, digest_size=8).digest()
        for image in pixels
    ]
    return np.array([int.from_bytes(digest, "little") for digest in digests], np.uint64)
