"""The tiny CLIP that comes with clipfast (bundled/MODEL_CARD.md) and its adversarially fine-tuned twin."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
from torch import nn

from ..config import CounterattackConfig
from .tokenizer import WordTokenizer

__all__ = ["BUNDLED", "BUNDLED_DIR", "BundledModel", "load_bundled"]

BUNDLED = "bundled"  # its name beside those of open_clip's registry
BUNDLED_DIR = Path(__file__).parent / "bundled"


@dataclass(frozen=True)
class BundledModel:
    """The bundled model and what belongs to it."""

    model: nn.Module
    tokenizer: WordTokenizer
    classnames: tuple[str, ...]
    config: CounterattackConfig  # with the threshold calibrated for this model


def load_bundled(device: str | torch.device = "cpu", *, folder: Path = BUNDLED_DIR) -> BundledModel:
    """The model in `folder` in eval mode, float32 (stored as float16)."""
    labels = json.loads((folder / "labels.json").read_text())
    model = open_clip.create_model(f"local-dir:{folder}", device=device, require_pretrained=True)
    tokenizer = WordTokenizer(labels["words"], context_length=labels["context_length"])
    settings = folder / "counterattack.json"  # not there yet while the model is being made
    config = (
        CounterattackConfig.from_json(settings.read_text()) if settings.exists() else CounterattackConfig()
    )
    return BundledModel(model.eval(), tokenizer, tuple(labels["classnames"]), config)
