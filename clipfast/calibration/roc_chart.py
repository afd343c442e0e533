"""A chart of the receiver operating characteristics of gates."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .. import pages
from ..pages import Axis
from .separation import roc

__all__ = ["roc_chart"]


def roc_chart(measured: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]], *, label: str) -> str:
    """Returns the text of an SVG element with a curve for each gate.

    Args:
        measured: By the gate's name for readers, what it measured of clean pictures, float32 [N], and of
            attacked ones, float32 [M]. It is low for attacked pictures.
        label: What the chart shows, in words for those who do not see it.

    Raises:
        InputError: If a gate measured no clean or no attacked pictures, or a drift is not finite.
    """
    curves = {
        name: list(zip(*(shares.tolist() for shares in roc(clean, attacked)), strict=True))
        for name, (clean, attacked) in measured.items()
    }
    return pages.lines(
        curves,
        Axis.percent("clean pictures countered"),
        Axis.percent("attacked pictures countered"),
        label=label,
        marks=False,
        diagonal=True,
    )
