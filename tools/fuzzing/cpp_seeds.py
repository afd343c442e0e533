"""`python -m fuzzing.cpp_seeds FOLDER`: true files for clipfast-fuzz, each after its reader's letter."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .targets import TARGETS


def _arrays() -> Iterator[bytes]:
    for array in (np.zeros((2, 3, 4, 4), np.float32), np.zeros(0, np.float32), np.zeros((1, 2))):
        file = io.BytesIO()
        np.save(file, array)
        yield file.getvalue()


def main() -> None:
    """Fills the folder."""
    if len(sys.argv) != 2:
        raise SystemExit("expected a folder")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    readers = {"n": _arrays, "m": TARGETS["metadata"].seeds, "p": TARGETS["pictures"].seeds}
    for letter, seeds in readers.items():
        for i, seed in enumerate(seeds()):
            (folder / f"{letter}{i}").write_bytes(letter.encode() + seed)


main()
