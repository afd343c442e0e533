"""Receiver operating characteristics of gates as a chart."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .. import pages
from ..pages import Axis
from .separation import roc

__all__ = ["roc_chart"]


def roc_chart(measured: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]], *, label: str) -> str:
    """An SVG element's text: a curve a gate, by what readers see of it.

    measured: what a gate measured of clean and of attacked pictures, [N] and [M], low of attacked ones.
    label: what is shown, for those who do not see it.
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
