"""Sets the presets' thresholds on clean pictures alone, by PROTOCOL.md's rules."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from clipfast import CounterattackConfig, DefendedClassifier, UncalibratedWarning
from clipfast.calibration.gauge import Gauge
from clipfast.calibration.threshold import Measured, threshold_for_rate
from clipfast.config import Preset
from clipfast.files import write_text
from clipfast.models.bundled import load_bundled
from clipfast.models.shapes import draw

from . import recipe


def calibrate(_run: Path, out: Path, device: torch.device) -> None:
    """Writes out/published.json, marked as calibrated for the model in `out`."""
    _write("published", _costs_little, recipe.TRAINING_KINDS, out, device)


def calibrate_recommended(_run: Path, out: Path, device: torch.device) -> None:
    """Writes out/recommended.json, marked as calibrated for the model in `out`."""
    _write("recommended", _counters_few, None, out, device)


def _write(
    preset: Preset,
    rule: Callable[[Measured], float],
    kinds: Mapping[str, float] | None,
    out: Path,
    device: torch.device,
) -> None:
    """kinds: of pictures, by weight; all alike if None."""
    original, config = load_bundled(device, folder=out), CounterattackConfig.of(preset)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UncalibratedWarning)
        classifier = DefendedClassifier(
            original.model, original.tokenizer, original.classnames, config=config
        )
    gauge = Gauge(classifier)
    pictures = draw(
        recipe.CALIBRATION_PICTURES,
        seed=recipe.SEED_CALIBRATE,
        kinds=kinds,
        size=recipe.IMAGE_SIZE,
    )
    pixels, labels = (torch.from_numpy(array) for array in (pictures.pixels, pictures.labels))
    measured = Measured.joined(
        [gauge(pixels[i : i + 100], labels[i : i + 100], seed=i) for i in range(0, len(labels), 100)]
    )
    config = dataclasses.replace(config, tau_threshold=rule(measured)).calibrated(classifier.drift_weights)
    write_text(out / f"{preset}.json", config.to_json() + "\n")


def _costs_little(measured: Measured) -> float:
    """The largest threshold that costs few points of clean accuracy."""
    assert measured.right is not None
    least = measured.right.undefended.mean() - recipe.MOST_CLEAN_LOSS
    chosen = 0.0
    for threshold in np.quantile(measured.drift, np.linspace(0, 1, 101)).tolist():
        if measured.accuracy(threshold) >= least:
            chosen = threshold
    return float(f"{chosen:.3g}")


def _counters_few(measured: Measured) -> float:
    """The largest threshold that counters few of the pictures."""
    return float(f"{threshold_for_rate(measured.drift, recipe.MOST_CLEAN_COUNTERED):.5g}")
