"""Files that are written whole or not at all, and text files, read with errors that name them."""

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

# Characters of a name that are kept in that of the file beside it: the whole stays below 255 bytes.
_KEPT = 40


def read_text(path: Path) -> str:
    """A UTF-8 file. Raises InputError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")  # some editors begin with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file that are not blank, stripped. Raises InputError where it cannot be read."""
    return lines_of(read_text(path))


def lines_of(text: str) -> list[str]:
    """The lines that are not blank, stripped."""
    return [line.strip() for line in text.splitlines() if line.strip()]


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[BinaryIO]:
    """A new file beside `path` to write to: moved into its place at the end, removed where that failed.

    No other process writes to it, and a link is never followed. Its mode is that of any new file.
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
    """Renames a finished file to `path`, on the same file system, in place of what stood there.

    The file reaches the disk before its name does, so that a power failure leaves the old one or the new.
    """
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
    _rename(file, path)


def check_place(path: Path) -> None:
    """Raises InputError for a file that could not be written, before the work that it is for."""
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder")
    if not path.parent.is_dir():
        raise InputError(f"no such folder: {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"cannot write {path}: the folder {path.parent} cannot be written to")


def write_text(path: Path, text: str) -> None:
    """Writes a file whole, in UTF-8.

    Raises InputError where that cannot be done; the folder is then as it was.
    """
    try:
        with written_aside(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def _rename(file: Path, path: Path) -> None:
    file.replace(path)
    # The new name is on the disk with the folder. Not every system lets a folder be opened or synchronised.
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
