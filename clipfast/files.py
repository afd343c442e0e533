"""Text files: read with errors that name them, and written whole or not at all."""

from __future__ import annotations

import contextlib
from pathlib import Path

from .errors import InputError

__all__ = ["read_lines", "read_text", "write_text"]


def read_text(path: Path) -> str:
    """A UTF-8 file. Raises InputError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file that are not blank, stripped. Raises InputError where it cannot be read."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def write_text(path: Path, text: str) -> None:
    """Writes a file aside and renames it into its place, in UTF-8.

    Raises InputError where that cannot be done; the folder is then as it was.
    """
    aside = path.with_name(f".{path.name}.part")
    try:
        aside.write_text(text, encoding="utf-8", newline="")
        aside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
