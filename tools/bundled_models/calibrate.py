"""Sets the published preset's threshold on clean pictures alone, by PROTOCOL.md's rule."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import torch

from clipfast import CounterattackConfig, DefendedClassifier, UncalibratedWarning
from clipfast.calibration.gauge import Gauge
from clipfast.calibration.threshold import Measured
from clipfast.files import write_text
from clipfast.models.bundled import load_bundled
from clipfast.models.shapes import draw

from . import recipe


def calibrate(_run: Path, out: Path, device: torch.device) -> None:
    """Writes out/published.json, marked as calibrated for the model in `out`."""
    original, config = load_bundled(device, folder=out), CounterattackConfig.published()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UncalibratedWarning)
        classifier = DefendedClassifier(
            original.model, original.tokenizer, original.classnames, config=config
        )
    gauge = Gauge(classifier)
    pictures = draw(
        recipe.CALIBRATION_PICTURES,
        seed=recipe.SEED_CALIBRATE,
        kinds=recipe.TRAINING_KINDS,
        size=recipe.IMAGE_SIZE,
    )
    pixels, labels = (torch.from_numpy(array) for array in (pictures.pixels, pictures.labels))
    measured = Measured.joined(
        [gauge(pixels[i : i + 100], labels[i : i + 100], seed=i) for i in range(0, len(labels), 100)]
    )
    threshold = _costs_little(measured)
    config = dataclasses.replace(config, tau_threshold=threshold).calibrated(classifier.drift_weights)
    write_text(out / "published.json", config.to_json() + "\n")


def _costs_little(measured: Measured) -> float:
    """The largest threshold that costs few points of clean accuracy."""
    assert measured.right is not None
    least = measured.right.undefended.mean() - recipe.MOST_CLEAN_LOSS
    chosen = 0.0
    for threshold in np.quantile(measured.drift, np.linspace(0, 1, 101)).tolist():
        if measured.accuracy(threshold) >= least:
            chosen = threshold
    return float(f"{chosen:.3g}")
