"""The tiny CLIP that comes with clipfast (bundled/MODEL_CARD.md) and its adversarially fine-tuned twin."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import torch
from torch import nn

from ..config import CounterattackConfig, Preset
from .tokenizer import WordTokenizer

__all__ = ["BUNDLED", "BUNDLED_DIR", "BundledDefaults", "BundledModel", "bundled_defaults", "load_bundled"]

BUNDLED = "bundled"  # its name beside those of open_clip's registry
BUNDLED_DIR = Path(__file__).parent / "bundled"


class BundledDefaults(NamedTuple):
    """What a classifier over the bundled model has where nothing else is asked for."""

    classnames: tuple[str, ...]
    config: CounterattackConfig  # with the threshold calibrated for this model


@dataclass(frozen=True)
class BundledModel:
    """The bundled model and what belongs to it."""

    model: nn.Module
    tokenizer: WordTokenizer
    classnames: tuple[str, ...]
    config: CounterattackConfig


def bundled_defaults(preset: Preset = "recommended", *, folder: Path = BUNDLED_DIR) -> BundledDefaults:
    """The class names and a preset's settings in `folder`, without the model."""
    classnames = tuple(_labels(folder)["classnames"])
    config = CounterattackConfig.of(preset)
    settings = folder / f"{preset}.json"  # not there yet while the model is being made
    if settings.exists():
        config = CounterattackConfig.from_json(settings.read_text())
    return BundledDefaults(classnames, config)


def load_bundled(device: str | torch.device = "cpu", *, folder: Path = BUNDLED_DIR) -> BundledModel:
    """The model in `folder` in eval mode, float32 (stored as float16)."""
    labels = _labels(folder)
    model = open_clip.create_model(f"local-dir:{folder}", device=device, require_pretrained=True)
    tokenizer = WordTokenizer(labels["words"], context_length=labels["context_length"])
    return BundledModel(model.eval(), tokenizer, *bundled_defaults(folder=folder))


def _labels(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "labels.json").read_text())
