"""The bundled renderer as a data set: pictures that neither the bundled model nor its calibration saw."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...models.shapes import CLASSNAMES, KINDS, draw
from .dataset import Contents

__all__ = ["read_drawn"]

# The random stream of these pictures. Those of the bundled model are in
# tools/bundled_models/drawn/recipe.py.
_STREAM = 300
_PICTURES = 10_000


class _Drawn:
    """Pictures of 96 x 96 pixels that are drawn when they are read; the kinds of ground take turns."""

    def __len__(self) -> int:
        return _PICTURES

    def name(self, index: int) -> str:
        """The index and the kind of ground."""
        return f"{index:05d}-{_kind(index)}"

    def read(self, index: int) -> tuple[NDArray[np.uint8], int]:
        """A picture, uint8 [96, 96, 3], and its label."""
        drawn = draw(1, seed=(_STREAM, index), kinds={_kind(index): 1.0})
        return drawn.pixels[0].transpose(1, 2, 0), int(drawn.labels[0])


def _kind(index: int) -> str:
    return KINDS[index % len(KINDS)]


def read_drawn() -> Contents:
    """Returns the renderer's classes and ten thousand pictures."""
    return Contents(CLASSNAMES, _Drawn())
