"""Image files, bytes, PIL images and arrays -> pixels at a model's size. Needs only numpy and Pillow.

Resize and crop equal open_clip's own evaluation transform to the bit, its normalisation left out, for
the picture turned upright, flattened onto white and converted to RGB *before* it is resized. (open_clip
converts after; for a palette picture Pillow would then resize by nearest neighbour.)
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from .errors import InputError, out_of_range

__all__ = ["MAX_IMAGE_PIXELS", "ImageSource", "Preprocess", "image_files", "open_image"]

ImageSource = str | os.PathLike[str] | bytes | Image.Image | NDArray[Any]

# A file that claims more than this is taken for a decompression bomb (Pillow's own warning level).
MAX_IMAGE_PIXELS = 89_478_485

# Pillow's decoders that need no other program and are met in the wild.
_FORMATS = (
    "PNG", "JPEG", "MPO", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "JPEG2000",
    "PPM", "TGA", "ICO", "PCX", "SGI",
)  # fmt: skip

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """A model's evaluation transform without normalisation.

    size: (height, width) of the result. resize_mode: "shortest" resizes the short side and crops the
    centre, "longest" resizes the long side and pads with fill_color, "squash" ignores the aspect.
    The names and defaults are open_clip's. Raises InputError for a setting it does not know.
    """

    size: tuple[int, int] = (224, 224)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    resize_mode: Literal["shortest", "longest", "squash"] = "shortest"
    fill_color: int = 0

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise InputError(f"size must be (height, width), both positive, got {self.size!r}")
        if self.interpolation not in _FILTERS:
            raise InputError(f"interpolation must be one of {tuple(_FILTERS)}, got {self.interpolation!r}")
        if self.resize_mode not in ("shortest", "longest", "squash"):
            raise InputError(
                f"resize_mode must be 'shortest', 'longest' or 'squash', got {self.resize_mode!r}"
            )

    @classmethod
    def from_open_clip(cls, model: Any) -> Preprocess:
        """The transform that an open_clip model was made for."""
        settings = getattr(model.visual, "preprocess_cfg", {})
        size = settings.get("size", model.visual.image_size)
        height, width = (size, size) if isinstance(size, int) else size
        return cls(
            size=(height, width),
            interpolation="bilinear" if settings.get("interpolation") == "bilinear" else "bicubic",
            resize_mode=settings.get("resize_mode") or "shortest",
            fill_color=settings.get("fill_color", 0),
        )

    def __call__(self, source: ImageSource, *, max_pixels: int = MAX_IMAGE_PIXELS) -> NDArray[np.uint8]:
        """One image: uint8 [3, H, W], RGB. Raises InputError as `open_image` does, for one resized too."""
        image = open_image(source, max_pixels=max_pixels)
        try:
            pixels = np.asarray(self._resize(image, min(max_pixels, MAX_IMAGE_PIXELS)))
        except InputError as error:
            raise InputError(f"{_name(source)}: {error}") from error
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def batch(self, sources: Iterable[ImageSource]) -> NDArray[np.uint8]:
        """Several images: uint8 [N, 3, H, W], RGB; N may be 0. Raises InputError as for one, and for one."""
        if isinstance(sources, (str, bytes, os.PathLike)):
            raise InputError(f"expected a list of images, got one {type(sources).__name__}")
        images = [self(source) for source in sources]
        return np.stack(images) if images else np.zeros((0, 3, *self.size), np.uint8)

    def _resize(self, image: Image.Image, max_pixels: int) -> Image.Image:
        height, width = self.size
        resample = _FILTERS[self.interpolation]
        if self.resize_mode == "squash":
            return _resized(image, width, height, resample, max_pixels)
        if self.resize_mode == "shortest" and height == width:
            short, long = sorted(image.size)
            scaled = int(height * long / short)
            new = (height, scaled) if image.width <= image.height else (scaled, height)
            return _crop_or_pad(_resized(image, *new, resample, max_pixels), height, width, 0)
        ratios = image.height / height, image.width / width
        longest = self.resize_mode == "longest"
        ratio = max(ratios) if longest else min(ratios)
        new = max(1, round(image.width / ratio)), max(1, round(image.height / ratio))
        # open_clip resizes to a non-square "shortest" target by bicubic, whatever the setting.
        resample = resample if longest else Image.Resampling.BICUBIC
        resized = _resized(image, *new, resample, max_pixels)
        return _crop_or_pad(resized, height, width, self.fill_color if longest else 0)


def _resized(
    image: Image.Image, width: int, height: int, resample: Image.Resampling, max_pixels: int
) -> Image.Image:
    if width * height > max_pixels:
        raise InputError(
            f"expected an image that can be resized, got {image.width} x {image.height}: "
            f"too long and narrow, it would become {width} x {height}"
        )
    return image if image.size == (width, height) else image.resize((width, height), resample)


def _crop_or_pad(image: Image.Image, height: int, width: int, fill: int) -> Image.Image:
    if image.width < width or image.height < height:
        grown = max(image.width, width), max(image.height, height)
        padded = Image.new("RGB", grown, (fill, fill, fill))
        padded.paste(image, ((grown[0] - image.width) // 2, (grown[1] - image.height) // 2))
        image = padded
    top, left = round((image.height - height) / 2), round((image.width - width) / 2)
    return image.crop((left, top, left + width, top + height))


def image_files(paths: Iterable[str | os.PathLike[str]]) -> Iterator[Path]:
    """The files named, and the image files below the folders named, in sorted order.

    A file that was named comes whatever its suffix. Raises InputError for a path that is not there and
    for a folder without images.
    """
    for path in map(Path, paths):
        if path.is_dir():
            formats = _formats()
            suffixes = {end for end, name in Image.registered_extensions().items() if name in formats}
            found = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in suffixes)
            if not found:
                raise InputError(f"expected image files in the folder {path}, found none")
            yield from found
        elif path.exists():
            yield path
        else:
            raise InputError(f"no such file or folder: {path}")


def open_image(source: ImageSource, *, max_pixels: int = MAX_IMAGE_PIXELS) -> Image.Image:
    """Any picture as an upright 8-bit RGB image; transparent parts show white, the first frame counts.

    Arrays are [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], uint8 or float in [0, 1]. Raises InputError for a
    file that is missing, empty, truncated, no image, or larger than max_pixels (at most MAX_IMAGE_PIXELS)
    once decoded, and decodes none that is.
    """
    max_pixels = min(max_pixels, MAX_IMAGE_PIXELS)
    name = _name(source)
    if isinstance(source, np.ndarray):
        return _decoded(_from_array(source), name, max_pixels)
    if isinstance(source, Image.Image):
        return _decoded(source, name, max_pixels)
    if isinstance(source, bytes):
        data = source
    elif isinstance(source, (str, os.PathLike)):
        try:
            data = Path(source).read_bytes()
        except OSError as error:
            raise InputError(f"cannot read {name}: {error.strerror or error}") from error
    else:
        raise InputError(f"expected a path, bytes, PIL image or array, got {type(source).__name__}")
    if not data:
        raise InputError(f"{name}: expected an image, got zero bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=_formats())
    except UnidentifiedImageError as error:
        raise InputError(f"{name}: not an image that clipfast reads ({', '.join(_formats())})") from error
    except Image.DecompressionBombError as error:
        raise _too_large(name, max_pixels) from error
    except Exception as error:  # decoders of broken files raise whatever they stumble over
        raise InputError(f"{name}: broken or truncated image: {error}") from error
    with image:
        return _decoded(image, name, max_pixels)


def _name(source: ImageSource) -> str:
    """What to call a source in messages."""
    if isinstance(source, (str, os.PathLike)):
        return str(source)
    kinds = {np.ndarray: "array", bytes: "bytes"}
    return f"the given {kinds.get(type(source), 'image')}"


def _formats() -> tuple[str, ...]:
    """Those of _FORMATS that this Pillow was built with."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _too_large(name: str, max_pixels: int) -> InputError:
    return InputError(f"{name}: expected at most {max_pixels} pixels, got more: a decompression bomb?")


def _decoded(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    if image.width * image.height > max_pixels:
        raise _too_large(name, max_pixels)
    try:
        image.load()
        return _upright_rgb(image, name)
    except InputError:
        raise
    except Exception as error:  # decoders of broken files raise whatever they stumble over
        raise InputError(f"{name}: broken or truncated image: {error}") from error


def _from_array(array: NDArray[Any]) -> Image.Image:
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


def _upright_rgb(image: Image.Image, name: str) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        return _from_deep(image, name).convert("RGB")
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
        return cast(Image.Image, converted)
    if image.has_transparency_data:
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _from_deep(image: Image.Image, name: str) -> Image.Image:
    """16-bit greys (modes "I;16", and "I" as older formats decode to it) and floats, to 8 bits."""
    values = np.asarray(image).astype(np.float64)
    top = 1.0 if image.mode == "F" else 65535.0
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > top:
        raise InputError(
            f"{name}: expected {image.mode} pixels from 0 to {top:g}, "
            f"got values from {values.min():g} to {values.max():g}"
        )
    return Image.fromarray(np.rint(values * (255 / top)).astype(np.uint8))
