"""A calibration as a picture: drift, the gate's ROC, and accuracy along the curve."""

from __future__ import annotations

from .. import pages
from ..pages import Axis
from .separation import roc
from .threshold import Calibration

__all__ = ["plot"]


def plot(calibration: Calibration) -> str:
    """An SVG file's text: histograms of drift with the threshold, then what labels and attacks allow."""
    clean, attacked = calibration.clean, calibration.attacked
    threshold = calibration.config.tau_threshold
    drift = None if attacked is None else attacked.drift
    charts = [pages.histogram(clean.drift, drift, threshold, label="histograms of drift, with the threshold")]
    x = Axis.percent("clean pictures countered")
    if drift is not None:
        points = list(zip(*(shares.tolist() for shares in roc(clean.drift, drift)), strict=True))
        charts.append(
            pages.lines(
                {"low drift as a sign of attack": points},
                x,
                Axis.percent("attacked pictures countered"),
                label="the gate's receiver operating characteristic",
                marks=False,
                diagonal=True,
            )
        )
    if clean.right is not None:
        curve = calibration.curve()
        series = {
            f"{name} pictures": list(zip(curve["clean_countered"], curve[f"{name}_accuracy"], strict=True))
            for name in ("clean", "attacked")
            if f"{name}_accuracy" in curve
        }
        label = "accuracy against the share of clean pictures countered, a point a threshold"
        charts.append(pages.lines(series, x, Axis.percent("right"), label=label, marks=False))
    return pages.alone(*charts)
