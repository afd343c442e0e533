"""Pictures of any mode as upright 8-bit RGB."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms

from ..errors import InputError, out_of_range

__all__ = ["from_array", "upright_rgb"]

_BITS_PER_SAMPLE = 258  # a tag of TIFF

# By the value of EXIF's orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def from_array(array: NDArray[Any]) -> Image.Image:
    """Makes a picture of an array.

    Args:
        array: [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], uint8, or float in [0, 1].

    Raises:
        InputError: For another shape or dtype, for values outside of [0, 1], and for NaN or infinity.
    """
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.size == 0 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise InputError(f"expected an array [H, W], [H, W, 3] or [H, W, 4], got shape {array.shape}")
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise InputError("expected finite pixels, got NaN or infinity")
        low, high = float(array.min()), float(array.max())
        if low < 0 or high > 1:
            raise InputError(out_of_range(low, high))
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise InputError(f"expected uint8 or float pixels, got {array.dtype}")
    return Image.fromarray(array)


def upright_rgb(image: Image.Image) -> Image.Image:
    """Turns a decoded picture as its metadata say, and makes it 8-bit RGB; transparent parts show white.

    Whatever error a decoder has may be raised, too.

    Raises:
        InputError: For deep greys and floats whose values are no picture's.
    """
    turn, rgb = _turn(image), _rgb(image)
    return rgb if turn is None else rgb.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken metadata are no broken picture
        return None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return _from_deep(image).convert("RGB")
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
        return cast(Image.Image, converted)
    if image.has_transparency_data:
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _from_deep(image: Image.Image) -> Image.Image:
    """Takes greys of more than 8 bits, and floats, to 8 bits.

    The greys are of modes "I;16", and "I" as older formats decode to it. The value that stands for
    transparency becomes white.
    """
    values = np.asarray(image).astype(np.float64)
    top = _top(image, values)
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > top:
        raise InputError(
            f"expected {image.mode} pixels from 0 to {top:g}, "
            f"got values from {values.min():g} to {values.max():g}"
        )
    if isinstance(transparent := image.info.get("transparency"), int):
        values[values == transparent] = top
    return Image.fromarray(np.rint(values * (255 / top)).astype(np.uint8))


def _top(image: Image.Image, values: NDArray[np.float64]) -> float:
    """The value of white."""
    if image.mode == "F":
        return 1.0
    if image.format is None and image.mode == "I" and values.max() <= 255:
        return 255.0  # made of 8 bits, as by `convert("I")`
    depth = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))[0]
    return 2.0**depth - 1 if 8 < depth < 16 else 65535.0
