"""A model's evaluation transform, without its normalisation."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import InputError
from .opening import MAX_IMAGE_PIXELS, ImageSource, name_of, open_image

__all__ = ["Preprocess"]

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """A model's evaluation transform without normalisation.

    The names and defaults are open_clip's.

    Attributes:
        size: (height, width) of the result in pixels.
        interpolation: "bicubic" or "bilinear".
        resize_mode: "shortest" resizes the short side and crops the centre, "longest" resizes the long
            side and pads with fill_color, "squash" ignores the aspect ratio.
        fill_color: The grey of padding, from 0 to 255.

    Raises:
        InputError: For a size that is not two positive numbers, and for an unknown interpolation or
            resize_mode.
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
        """Returns the transform that an open_clip model was made for.

        Raises:
            InputError: If the model's settings name an unknown resize_mode.
        """
        settings = getattr(model.visual, "preprocess_cfg", {})
        size = settings.get("size", model.visual.image_size)
        height, width = (size, size) if isinstance(size, int) else size
        return cls(
            size=(height, width),
            interpolation="bilinear" if settings.get("interpolation") == "bilinear" else "bicubic",
            resize_mode=settings.get("resize_mode") or "shortest",
            fill_color=settings.get("fill_color", 0),
        )

    def __call__(
        self,
        source: ImageSource,
        *,
        max_pixels: int = MAX_IMAGE_PIXELS,
        formats: Sequence[str] | None = None,
    ) -> NDArray[np.uint8]:
        """Opens and resizes one image.

        Args:
            source: See `clipfast.preprocess.open_image`.
            max_pixels: The largest number of pixels, as decoded and as resized, at most MAX_IMAGE_PIXELS.
            formats: See `clipfast.preprocess.open_image`.

        Returns:
            RGB pixels, uint8 [3, H, W].

        Raises:
            InputError: As `open_image` does, and for an image that is too large once resized.
        """
        image = open_image(source, max_pixels=max_pixels, formats=formats)
        try:
            pixels = np.asarray(self._resize(image, min(max_pixels, MAX_IMAGE_PIXELS)))
        except InputError as error:
            raise InputError(f"{name_of(source)}: {error}") from error
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def batch(self, sources: Iterable[ImageSource]) -> NDArray[np.uint8]:
        """Opens and resizes several images.

        Args:
            sources: The images, see `clipfast.preprocess.open_image`; there may be none.

        Returns:
            RGB pixels, uint8 [N, 3, H, W].

        Raises:
            InputError: As for one image, and if `sources` is one path or the bytes of one image.
        """
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
