"""Files that are written whole or not at all, and text files whose reading errors name them."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .errors import InputError

__all__ = [
    "UNFINISHED",
    "check_place",
    "lines_of",
    "move_into_place",
    "read_lines",
    "read_text",
    "write_text",
    "written_aside",
]

UNFINISHED = ".part"
"""The suffix of a file that was not finished: what a killed process leaves behind."""

# How many characters of a file's name go into the name of the temporary file beside it, so that the whole
# stays below 255 bytes.
_KEPT = 40


def read_text(path: Path) -> str:
    """Reads a UTF-8 file, with or without a byte order mark.

    Raises:
        InputError: If the file cannot be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")  # some editors write a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def read_lines(path: Path) -> list[str]:
    """Reads the lines of a UTF-8 file that are not blank, stripped.

    Raises:
        InputError: If the file cannot be read or is not UTF-8.
    """
    return lines_of(read_text(path))


def lines_of(text: str) -> list[str]:
    """Returns the lines of a text that are not blank, stripped."""
    return [line.strip() for line in text.splitlines() if line.strip()]


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[BinaryIO]:
    """Opens a new file beside `path`, which takes the place of `path` once it is written.

    No other process writes to it, and a link is never followed. Its mode is that of any new file. If
    writing fails, the new file is removed and `path` stays as it was.

    Args:
        path: Where the finished file belongs.

    Yields:
        The new file, open for writing in binary.

    Raises:
        OSError: If the file cannot be created, written or moved.
    """
    aside = path.with_name(f".{path.name[:_KEPT]}.{secrets.token_hex(8)}{UNFINISHED}")
    file = aside.open("xb")
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _rename(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise


def move_into_place(file: Path, path: Path) -> None:
    """Renames a finished file to `path`, on the same file system, and replaces what was there.

    The file's content reaches the disk before its name does, so that a power failure leaves either the
    old file or the new one.

    Args:
        file: The finished file.
        path: Its new place.

    Raises:
        OSError: If the file cannot be read or renamed.
    """
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
    _rename(file, path)


def check_place(path: Path) -> None:
    """Checks that a file can be written, before the work that makes its content.

    Raises:
        InputError: If `path` is a folder, or its folder is missing or cannot be written to.
    """
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder")
    if not path.parent.is_dir():
        raise InputError(f"no such folder: {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"cannot write {path}: the folder {path.parent} cannot be written to")


def write_text(path: Path, text: str) -> None:
    """Writes a file whole, in UTF-8.

    Args:
        path: The file, which is replaced if there is one.
        text: Its new content.

    Raises:
        InputError: If the file cannot be written; its folder is then as it was.
    """
    try:
        with written_aside(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def _rename(file: Path, path: Path) -> None:
    file.replace(path)
    # The new name is on the disk once the folder is. Not every system can open or synchronise a folder.
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
