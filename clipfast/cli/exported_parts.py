"""The files that an exported classifier lies in, and the digest that names what is in them."""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["files_of", "sha256_of"]


def files_of(file: Path) -> list[Path]:
    """An exported file, and the data file of large ONNX weights beside it."""
    data = file.with_name(f"{file.name}.data")
    return [file, data] if data.exists() else [file]


def sha256_of(file: Path) -> str:
    """SHA-256 over the parts of an exported file, one after the other, in hex."""
    digest = hashlib.sha256()
    for part in files_of(file):
        with part.open("rb") as opened:
            while block := opened.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
