"""Picture files -> decoded pictures; nothing is decoded that would be too large."""

from __future__ import annotations

import io
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ..errors import InputError
from .converting import from_array, upright_rgb

__all__ = [
    "FORMATS",
    "MAX_IMAGE_PIXELS",
    "ImageSource",
    "available_formats",
    "known_suffixes",
    "name_of",
    "open_image",
]

ImageSource = str | os.PathLike[str] | bytes | Image.Image | NDArray[Any]

# A file of more pixels than this is taken for a decompression bomb (Pillow's own warning level).
MAX_IMAGE_PIXELS = 89_478_485

# Pillow's decoders that need no other program and are in common use. TGA has no signature. It is tried
# last, as it would take some files of other formats for its own.
FORMATS = (
    "PNG", "JPEG", "MPO", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "JPEG2000",
    "PPM", "ICO", "PCX", "SGI", "TGA",
)  # fmt: skip

# Each scan of a JPEG costs a decoder as much as a picture of its size. Encoders write about ten.
_MOST_SCANS = 100
_SCAN = b"\xff\xda"
_BLOCK = 1 << 20  # bytes
_ICON = b"\0\0\x01\0"
_PNG = b"\x89PNG\r\n\x1a\n"

_MOST_FROM_A_PIPE = 2**30  # bytes


def open_image(
    source: ImageSource, *, max_pixels: int = MAX_IMAGE_PIXELS, formats: Sequence[str] | None = None
) -> Image.Image:
    """Opens any picture as an upright 8-bit RGB image; transparent parts show white.

    Of an animation, the first frame is taken. Metadata that cannot be read leave the picture as it lies.

    Args:
        source: A path, a file's bytes, a PIL image, or an array [H, W], [H, W, 1], [H, W, 3] or [H, W,
            4], uint8 or float in [0, 1].
        max_pixels: The largest number of pixels that is decoded, at most MAX_IMAGE_PIXELS.
        formats: Those of FORMATS that a file may have; all of them if None.

    Raises:
        InputError: For a file that is missing, empty, truncated, of another format, or larger than
            max_pixels once decoded, and for a JPEG of more than a hundred scans. Of these, only truncated
            files are decoded. Also for a bad array, a source of another type, and formats that are not in
            FORMATS.
    """
    max_pixels = min(max_pixels, MAX_IMAGE_PIXELS)
    name, chosen = name_of(source), available_formats(formats)
    if isinstance(source, np.ndarray):
        return _decoded(from_array(source), name, max_pixels)
    if isinstance(source, Image.Image):
        return _decoded(source, name, max_pixels)
    if isinstance(source, bytes):
        return _read(io.BytesIO(source), name, max_pixels, chosen)
    if isinstance(source, (str, os.PathLike)):
        with _opened(Path(source), name) as file:
            return _read(file, name, max_pixels, chosen)
    raise InputError(f"expected a path, bytes, PIL image or array, got {type(source).__name__}")


def name_of(source: ImageSource) -> str:
    """Returns what to call a source in messages."""
    if isinstance(source, (str, os.PathLike)):
        return str(source)
    kinds = {np.ndarray: "array", bytes: "bytes"}
    return f"the given {kinds.get(type(source), 'image')}"


def known_suffixes() -> frozenset[str]:
    """Returns the suffixes of files of FORMATS that this Pillow opens, in lower case."""
    formats = available_formats()
    return frozenset(end for end, name in Image.registered_extensions().items() if name in formats)


def available_formats(formats: Sequence[str] | None = None) -> tuple[str, ...]:
    """Returns which of FORMATS this Pillow opens, in the order in which they are tried.

    Args:
        formats: Those of FORMATS to choose from; all of them if None.

    Raises:
        InputError: For formats that are not in FORMATS.
    """
    if unknown := set(formats or ()) - set(FORMATS):
        raise InputError(f"expected formats of {', '.join(FORMATS)}, got {', '.join(sorted(unknown))}")
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN and (formats is None or name in formats))


@contextmanager
def _opened(path: Path, name: str) -> Iterator[IO[bytes]]:
    """Opens a file to be read as it is decoded; a pipe, where no decoder can go back, is read whole."""
    try:
        with path.open("rb") as file:
            regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            yield file if regular else io.BytesIO(file.read(_MOST_FROM_A_PIPE))
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror or error}") from error


def _read(file: IO[bytes], name: str, max_pixels: int, formats: tuple[str, ...]) -> Image.Image:
    head = file.read(4)
    if not head:
        raise InputError(f"{name}: expected an image, got zero bytes")
    try:
        # Pillow decodes an icon as it opens it.
        if head == _ICON and _largest_in_icon(file) > max_pixels:
            raise _too_large(name, max_pixels)
        image = Image.open(file, formats=formats)
    except UnidentifiedImageError as error:
        raise InputError(f"{name}: not an image that is read ({', '.join(formats)})") from error
    except Image.DecompressionBombError as error:
        raise _too_large(name, max_pixels) from error
    except InputError:
        raise
    except Exception as error:  # decoders of broken files raise whatever they stumble over
        raise InputError(f"{name}: broken or truncated image: {error}") from error
    with image:
        if image.format in ("JPEG", "MPO") and _scans(file) > _MOST_SCANS:
            raise InputError(f"{name}: expected at most {_MOST_SCANS} scans, got more: made to take long?")
        return _decoded(image, name, max_pixels)


def _decoded(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    if image.width * image.height > max_pixels:
        raise _too_large(name, max_pixels)
    try:
        image.load()
        return upright_rgb(image)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    except Exception as error:  # decoders of broken files raise whatever they stumble over
        raise InputError(f"{name}: broken or truncated image: {error}") from error


def _too_large(name: str, max_pixels: int) -> InputError:
    return InputError(f"{name}: expected at most {max_pixels} pixels, got more: a decompression bomb?")


def _scans(file: IO[bytes]) -> int:
    """How often a scan begins in a JPEG, those of its thumbnails among them."""
    place, count, before = file.tell(), 0, b""
    file.seek(0)
    while block := file.read(_BLOCK):
        count += (before + block).count(_SCAN)
        before = block[-1:]
    file.seek(place)
    return count


def _largest_in_icon(file: IO[bytes]) -> int:
    """Pixels of an icon's largest picture, from the pictures' own headers.

    The sizes in its table are of one byte, and need not be true.
    """
    (count,) = struct.unpack("<H", file.read(2))
    starts = [struct.unpack("<12xI", file.read(16))[0] for _ in range(count)]
    largest = 0
    for start in starts:
        file.seek(start)
        head = file.read(24)
        if head.startswith(_PNG):
            width, height = struct.unpack("!16xII", head)
        else:  # a bitmap's header gives twice the height, as it counts the mask below it
            width, height = struct.unpack("<4xII12x", head)
            height //= 2
        largest = max(largest, width * height)
    return largest
