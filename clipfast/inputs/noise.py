"""Where a counterattack's noise comes from: given by the caller, or drawn under keys.

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
    """The noise of N images: numbers, or keys to draw it by Philox (see `clipfast.inputs.philox`).

    Either `given` is there, or both `seeds` and `images` are.

    Attributes:
        given: float32 [N, 3, H, W] within eps, in [0, 1] pixel units.
        seeds: [N], the 64 bits of each image's key: uint64 in numpy, int64 in torch.
        images: [N], each image's index under its key: uint32 in numpy, int64 in torch.
    """

    given: Array | None = None
    seeds: Array | None = None
    images: Array | None = None


def seeded_keys(seed: int, first_image: int, n: int) -> Noise[NDArray[Any]]:
    """Makes the keys of consecutive images under one seed.

    Args:
        seed: From 0 to 2^64 - 1.
        first_image: The first image's index under the seed.
        n: Number of images.
    """
    images = np.arange(first_image, first_image + n).astype(np.uint32)
    return Noise(seeds=np.full(n, seed, np.uint64), images=images)


def fresh_keys(n: int) -> Noise[NDArray[Any]]:
    """Makes keys that were never used, for each of n images one from the operating system."""
    seeds = np.frombuffer(secrets.token_bytes(8 * n), np.uint64).copy()  # torch needs writable arrays
    return Noise(seeds=seeds, images=np.zeros(n, np.uint32))


class NoiseSource:
    """Chooses the keys of a classifier's noise.

    Copies share the secret key. Pickles hold the name of its file, and never the key itself.

    Args:
        policy: "fresh" draws anew at each call; "content" keys each image's noise by its pixels and
            `key`.
        key: 16 to 64 secret bytes, or a file of them that its owner alone may read; drawn if None.

    Attributes:
        policy: As given.

    Raises:
        InputError: If there is no such policy, and for a bad key.
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
        """Returns the keys that a call names for its n images.

        Args:
            n: Number of images.
            seed: From 0 to 2^64 - 1, as for `DefendedClassifier.predict`; None to follow the policy.
            first_image: The first image's index under the seed, from 0 to 2^32 - n.
            pictures: Gives the pixels, float32 [N, 3, H, W] in [0, 1], which the policy "content" reads.

        Returns:
            The keys; None for the policy "fresh" without a seed, where noise is to be drawn anew.

        Raises:
            InputError: For a bad seed or first_image, and if the source was unpickled without its secret
                key.
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
    """Checks that a call does not both give noise and name a seed.

    Args:
        noise: The call's noise, or None.
        seed: The call's seed, or None.

    Raises:
        InputError: If neither is None.
    """
    if noise is not None and seed is not None:
        raise InputError("expected noise or seed, got both")
