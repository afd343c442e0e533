"""What torch tensors and numpy arrays have to fulfil alike; everything else is an InputError."""

from __future__ import annotations

import contextlib
import operator
import os
import secrets
import stat
from collections.abc import Sequence
from typing import Literal, get_args

from ..config import CounterattackConfig
from ..errors import InputError

__all__ = [
    "NoiseKey",
    "NoisePolicy",
    "check_noise_shape",
    "check_noise_size",
    "check_shape",
    "checked_integer",
    "checked_noise_key",
]

NoisePolicy = Literal["fresh", "content"]
NoiseKey = bytes | os.PathLike[str] | None  # the key's bytes, the file that holds them, or None to draw it

_LONGEST_KEY = 64  # bytes, of keyed BLAKE2b


def check_shape(shape: Sequence[int], size: tuple[int, int]) -> None:
    """Checks that the shape of pixels is [N, 3, H, W].

    Args:
        shape: The pixels' shape.
        size: (H, W).

    Raises:
        InputError: If it is not.
    """
    wanted, got = f"[N, 3, {size[0]}, {size[1]}]", list(shape)
    if len(got) == 3:
        raise InputError(f"expected pixels {wanted}, got {got}: one image needs a batch axis, pixels[None]")
    if len(got) != 4:
        raise InputError(f"expected pixels {wanted}, got {got}")
    if got[1] != 3:
        hint = ": channels come first, permute(0, 3, 1, 2)" if got[3] == 3 else ""
        raise InputError(f"expected pixels {wanted}, got {got}{hint}")
    if tuple(got[2:]) != size:
        raise InputError(f"expected pixels {wanted}, got {got}: clipfast.preprocess resizes and crops")


def check_noise_shape(shape: Sequence[int], pixels: Sequence[int]) -> None:
    """Checks that noise is shaped as its pixels.

    Args:
        shape: The noise's shape.
        pixels: The pixels' shape.

    Raises:
        InputError: If it is not.
    """
    if tuple(shape) != tuple(pixels):
        raise InputError(f"expected noise of the pixels' shape {list(pixels)}, got {list(shape)}")


def check_noise_size(size: float, config: CounterattackConfig) -> None:
    """Checks that noise is within eps.

    Args:
        size: The largest norm of noise in a batch, in [0, 1] pixel units.
        config: Gives eps.

    Raises:
        InputError: If size is beyond eps, by more than rounding, or NaN.
    """
    # One part in a million for the rounding of eps; NaN compares false.
    if not size <= config.eps * (1 + 1e-6):
        raise InputError(f"expected noise within eps = {config.eps:g} ({config.norm}), got {size:g}")


def checked_integer(name: str, value: object, end: int, *, start: int = 0) -> int:
    """Checks that a value is an integer, of any integer type but bool, and returns it as an int.

    Args:
        name: The value's name, for the message.
        value: The value.
        end: The first integer that is too large.
        start: The least integer allowed.

    Raises:
        InputError: If it is not an integer from start to end - 1.
    """
    if not isinstance(value, bool):
        with contextlib.suppress(TypeError):
            number = operator.index(value)  # pyright: ignore[reportArgumentType]
            if start <= number < end:
                return number
    raise InputError(f"{name} must be an integer from {start} to {end - 1}, got {value!r}")


def checked_noise_key(policy: NoisePolicy, key: NoiseKey) -> bytes:
    """Returns the bytes of a noise key, drawn if none is given.

    Args:
        policy: "fresh" or "content".
        key: 16 to 64 bytes, a file of them that its owner alone may read, or None.

    Raises:
        InputError: For a bad policy or key, and for a file that cannot be read or that others may read.
    """
    if policy not in get_args(NoisePolicy):
        raise InputError(f"noise_policy must be one of {get_args(NoisePolicy)}, got {policy!r}")
    if key is None:
        return secrets.token_bytes(32)
    if isinstance(key, os.PathLike):
        key = _read_key(key)
    if not isinstance(key, bytes):
        raise InputError(f"noise_key must be bytes, got {type(key).__name__}")
    if not 16 <= len(key) <= _LONGEST_KEY:
        raise InputError(f"noise_key must be 16 to {_LONGEST_KEY} bytes, got {len(key)}")
    return key


def _read_key(path: os.PathLike[str]) -> bytes:
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            key = file.read(_LONGEST_KEY + 1)
    except OSError as error:
        raise InputError(f"cannot read the noise key {path}: {error.strerror or error}") from error
    if mode & 0o077:
        raise InputError(f"{path}: expected a noise key that its owner alone may read (0600), got {mode:04o}")
    return key
