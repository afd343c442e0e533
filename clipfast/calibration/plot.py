"""A picture of a calibration: what the gate measures, its ROC, and accuracy along the curve."""

from __future__ import annotations

from .. import pages
from ..config import GATES
from ..pages import Axis
from .roc_chart import roc_chart
from .threshold import Calibration

__all__ = ["plot"]


def plot(calibration: Calibration) -> str:
    """Returns the text of an SVG file that shows a calibration.

    It shows histograms of the gate's measure with the threshold. With attacked pictures it shows the
    gate's receiver operating characteristic too, and with labels accuracy over the share of clean
    pictures countered.

    Args:
        calibration: The calibration.
    """
    clean, attacked = calibration.clean, calibration.attacked
    gate = GATES[calibration.config.gate]
    drift = None if attacked is None else attacked.drift
    charts = [
        pages.histogram(
            clean.drift,
            drift,
            calibration.config.tau_threshold,
            label=f"histograms of {gate.measures}, with the threshold",
            measure=gate.measures,
            cosine=gate.cosine,
        )
    ]
    if drift is not None:
        name = f"low {gate.measures} as a sign of attack"
        charts.append(
            roc_chart({name: (clean.drift, drift)}, label="the gate's receiver operating characteristic")
        )
    if clean.right is not None:
        curve = calibration.curve()
        series = {
            f"{name} pictures": list(zip(curve["clean_countered"], curve[f"{name}_accuracy"], strict=True))
            for name in ("clean", "attacked")
            if f"{name}_accuracy" in curve
        }
        label = "accuracy against the share of clean pictures countered, a point a threshold"
        x = Axis.percent("clean pictures countered")
        charts.append(pages.lines(series, x, Axis.percent("right"), label=label, marks=False))
    return pages.alone(*charts)
