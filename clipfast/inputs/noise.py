"""Where the start of a counterattack comes from: given by the caller, or drawn, and then under which keys.

Needs no torch: `Noise` holds arrays or tensors, and `NoiseSource` chooses keys for both.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .philox import content_seeds
from .rules import NoiseKey, NoisePolicy, checked_integer, checked_noise_key

__all__ = ["Noise", "NoiseSource", "check_one_source", "fresh_keys", "seeded_keys"]

Array = TypeVar("Array")


class Noise(NamedTuple, Generic[Array]):
    """The noise of N images: numbers, or the names of draws of Philox (see `clipfast.inputs.philox`).

    Either `given` or both of `seeds` and `images` are there.
    """

    given: Array | None = None  # float32 [N, 3, H, W] within eps
    seeds: Array | None = None  # [N] the 64 bits of each image's key: uint64 in numpy, int64 in torch
    images: Array | None = None  # [N] each image's index under its key: uint32 in numpy, int64 in torch


def seeded_keys(seed: int, first_image: int, n: int) -> Noise[NDArray[Any]]:
    """The draws of the images first_image.. under one key; seed: from 0 to 2^64 - 1."""
    images = np.arange(first_image, first_image + n).astype(np.uint32)
    return Noise(seeds=np.full(n, seed, np.uint64), images=images)


def fresh_keys(n: int) -> Noise[NDArray[Any]]:
    """Draws that were never made: for each image a key from the operating system."""
    seeds = np.frombuffer(secrets.token_bytes(8 * n), np.uint64).copy()  # torch takes none that are read-only
    return Noise(seeds=seeds, images=np.zeros(n, np.uint32))


class NoiseSource:
    """A classifier's way to its noise.

    policy: "fresh" draws anew each call; "content" keys each image's draw by its pixels and `key`: 16 to 64
    secret bytes, or a file of them that its owner alone may read; drawn where None. Copies share the key;
    pickles hold a file's name and never the key. Raises InputError for another policy, and for a bad key.
    """

    def __init__(self, policy: NoisePolicy, key: NoiseKey) -> None:
        self.policy: NoisePolicy = policy
        self._file = None if key is None or isinstance(key, bytes) else key
        self._key: bytes | None = checked_noise_key(policy, key)

    def __getstate__(self) -> dict[str, Any]:
        return {"policy": self.policy, "_file": self._file, "_key": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        if self._file is not None:
            self._key = checked_noise_key(self.policy, self._file)

    def __deepcopy__(self, memo: dict[int, Any]) -> NoiseSource:
        return self

    def keys(
        self, n: int, *, seed: int | None, first_image: int, pictures: Callable[[], NDArray[np.float32]]
    ) -> Noise[NDArray[Any]] | None:
        """The keys that a call names for n images; None where it names none, and noise is to be drawn anew.

        seed, first_image: as for `DefendedClassifier.predict`. pictures: gives the pixels [N, 3, H, W] in
        [0, 1], which the policy "content" reads. Raises InputError for a bad seed or first_image.
        """
        if seed is not None:
            first = checked_integer("first_image", first_image, 2**32 - n + 1)
            return seeded_keys(checked_integer("seed", seed, 2**64), first, n)
        if self.policy == "content":
            if self._key is None:
                raise InputError(
                    "a pickle holds no noise key: make the classifier with the key in a file, which is read "
                    "again (noise_key=Path)"
                )
            seeds = content_seeds(pictures(), self._key)
            return Noise(seeds=seeds, images=np.zeros(n, np.uint32))
        return None


def check_one_source(noise: object, seed: object) -> None:
    """Raises InputError where a call gives noise and names a seed."""
    if noise is not None and seed is not None:
        raise InputError("expected noise or seed, got both")
