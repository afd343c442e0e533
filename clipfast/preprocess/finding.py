"""Which files are pictures to be read."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError
from .opening import known_suffixes

__all__ = ["FoundImages", "image_files", "look_for_images"]

# Pictures that clipfast does not read. They are reported, as they would be missed otherwise.
_UNREAD = frozenset(
    {".heic", ".heif", ".jxl", ".psd", ".svg", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".exr"}
)


_log = logging.getLogger(__name__)


class FoundImages(NamedTuple):
    """The image files at a path, and what was left out.

    Attributes:
        files: Files to be read, in sorted order.
        left_out: For each thing left out, an InputError that names it and says why.
    """

    files: list[Path]
    left_out: list[InputError]


def image_files(paths: Iterable[str | os.PathLike[str]]) -> Iterator[Path]:
    """Finds the files named, and the image files below the folders named, in sorted order.

    What else `look_for_images` leaves out is logged.

    Args:
        paths: Files, of any suffix, and folders.

    Yields:
        The files.

    Raises:
        InputError: For a path that is not there, and for a folder without images.
    """
    for path in map(Path, paths):
        found = look_for_images(path)
        if not found.files:
            raise found.left_out[0]
        for error in found.left_out:
            _log.warning("left out: %s", error)
        yield from found.files


def look_for_images(path: Path) -> FoundImages:
    """Finds a file that is named, or the image files below a folder.

    A file that is named is taken whatever its suffix. Left out, with the reason, are a path that is not
    there, a folder that cannot be read or holds no images, and below a folder: links that lead nowhere,
    folders that are links, and pictures of formats that clipfast does not read.
    """
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError) as error:  # a null character is a ValueError
        reason = getattr(error, "strerror", None) or error
        return FoundImages([], [InputError(f"no such file or folder: {path!s:.300}: {reason}")])
    if not is_folder:
        return FoundImages([path], [])
    found, suffixes = FoundImages([], []), known_suffixes()

    def unreadable(error: OSError) -> None:
        found.left_out.append(InputError(f"cannot read the folder {error.filename}: {error.strerror}"))

    for folder, folders, names in os.walk(path, onerror=unreadable):
        for place in map(Path(folder).joinpath, folders):
            if place.is_symlink():
                found.left_out.append(InputError(f"{place}: a link to a folder, which is not followed"))
        for place in map(Path(folder).joinpath, names):
            suffix = place.suffix.lower()
            if suffix in _UNREAD:
                found.left_out.append(InputError(f"{place}: clipfast does not read files of {suffix}"))
            elif suffix not in suffixes:
                continue
            elif place.is_file():
                found.files.append(place)
            elif place.is_symlink():
                found.left_out.append(InputError(f"{place}: a link that leads nowhere"))
    if not found.files:
        found.left_out.append(InputError(f"expected image files in the folder {path}, found none"))
    found.files.sort()
    return found
