"""Files that are written whole or not at all, and text files, read with errors that name them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from .errors import InputError

__all__ = ["read_lines", "read_text", "write_text", "written_aside"]


def read_text(path: Path) -> str:
    """A UTF-8 file. Raises InputError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file that are not blank, stripped. Raises InputError where it cannot be read."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to: renamed into its place at the end, removed where that failed."""
    aside = path.with_name(f".{path.name}.part")
    try:
        yield aside
        aside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a file whole, in UTF-8.

    Raises InputError where that cannot be done; the folder is then as it was.
    """
    try:
        with written_aside(path) as aside:
            aside.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
