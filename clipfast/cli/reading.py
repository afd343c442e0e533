"""Reads pictures in batches, and goes on if some cannot be read."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..preprocess import Preprocess

__all__ = ["batches"]


def batches(
    preprocess: Preprocess, files: list[Path], size: int
) -> Iterator[tuple[list[Path], NDArray[Any], list[InputError]]]:
    """Reads picture files, a batch at a time.

    Args:
        preprocess: The transform from files to pixels.
        files: The files.
        size: The largest number of files in a batch.

    Yields:
        The N readable files of a batch, their pixels uint8 [N, 3, H, W], and the errors of the others. N
        may be 0.
    """
    rest = iter(files)
    while chunk := list(islice(rest, size)):
        good: list[Path] = []
        arrays: list[NDArray[Any]] = []
        bad: list[InputError] = []
        for path in chunk:
            try:
                arrays.append(preprocess(path))
                good.append(path)
            except InputError as error:
                bad.append(error)
        yield good, np.stack(arrays) if arrays else preprocess.batch([]), bad
