"""Sets the published preset's threshold on clean pictures alone, by PROTOCOL.md's rule."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clipfast import CounterattackConfig, DefendedClassifier, UncalibratedWarning
from clipfast.calibration.gauge import Gauge
from clipfast.calibration.threshold import Measured
from clipfast.files import write_text
from clipfast.models.bundled import load_bundled

__all__ = ["calibrate"]

_CHUNK = 100


def calibrate(
    out: Path, pixels: Tensor, labels: Tensor, device: torch.device, *, most_clean_loss: float
) -> None:
    """Writes out/published.json, marked as calibrated for the model in `out`.

    pixels: uint8 [N, 3, H, W], clean. labels: int64 [N]. most_clean_loss: the share of clean accuracy that
    the threshold may cost.
    """
    original, config = load_bundled(out, device), CounterattackConfig.published()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UncalibratedWarning)
        classifier = DefendedClassifier(
            original.model, original.tokenizer, original.classnames, config=config
        )
    gauge = Gauge(classifier)
    starts = range(0, len(labels), _CHUNK)
    measured = Measured.joined(
        [gauge(pixels[i : i + _CHUNK], labels[i : i + _CHUNK], seed=i) for i in starts]
    )
    threshold = _costs_little(measured, most_clean_loss)
    config = dataclasses.replace(config, tau_threshold=threshold).calibrated(classifier.drift_weights)
    write_text(out / "published.json", config.to_json() + "\n")


def _costs_little(measured: Measured, most_clean_loss: float) -> float:
    """The largest threshold that costs few points of clean accuracy."""
    assert measured.right is not None
    least = measured.right.undefended.mean() - most_clean_loss
    chosen = 0.0
    for threshold in np.quantile(measured.drift, np.linspace(0, 1, 101)).tolist():
        if measured.accuracy(threshold) >= least:
            chosen = threshold
    return float(f"{chosen:.3g}")
