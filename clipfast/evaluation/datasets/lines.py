"""Text files of one entry a line."""

from __future__ import annotations

from pathlib import Path

from ...errors import InputError

__all__ = ["read_lines"]


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file that are not blank, stripped. Raises InputError where it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
