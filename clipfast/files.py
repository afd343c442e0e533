"""Text files that are there whole or not at all."""

from __future__ import annotations

import contextlib
from pathlib import Path

from .errors import InputError

__all__ = ["write_text"]


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
