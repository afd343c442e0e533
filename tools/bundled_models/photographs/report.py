"""What the finished model gets right of clean photographs, in words that it was trained on and others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clipfast.files import write_text
from clipfast.measurement.statistics import share
from clipfast.models.bundled import load_bundled
from clipfast.models.class_weights import class_weights
from clipfast.models.tower import ImageTower

from . import recipe
from .card import model_card
from .pictures import Pictures

__all__ = ["report"]

_CHUNK = 250


@torch.no_grad()
def report(out: Path, pictures: Pictures, device: torch.device) -> None:
    """Writes out/MODEL_CARD.md and out/report.json: shares of the pictures that are right, and their errors.

    Of class names in the template that an evaluation uses, in each other one, and in the one that was never
    trained on; of the words above them, among all of their level. pictures: the test split, of which the
    first are reported in all of this, and all of them in the first template.
    """
    bundled = load_bundled(out, device)
    tower = ImageTower(bundled.model)
    embeddings = F.normalize(
        torch.cat([tower(part.to(device).float() / 255) for part in pictures.pixels.split(_CHUNK)]), dim=1
    )

    whole, labels = embeddings, pictures.labels
    embeddings, reported = whole[: recipe.REPORTED], labels[: recipe.REPORTED]

    def right(names: tuple[str, ...], template: str, labels: Tensor) -> dict[str, float]:
        weights = class_weights(bundled.model, bundled.tokenizer, names, (template,))
        found = whole[: len(labels)] @ weights
        return share((found.argmax(dim=1).cpu() == labels).numpy())._asdict()

    first, *others = recipe.TRAINING_TEMPLATES
    result: dict[str, Any] = {
        "pictures": len(reported),
        "whole": {"pictures": len(labels), "clean": right(recipe.CLASSNAMES, first, labels)},
        "clean": right(recipe.CLASSNAMES, first, reported),
        "other_templates": {t: right(recipe.CLASSNAMES, t, reported) for t in others},
        "unseen_template": right(recipe.CLASSNAMES, recipe.UNSEEN_TEMPLATE, reported),
        "words_above": [],
    }
    for level in recipe.LEVELS:
        phrases = tuple(level)
        above = torch.tensor(
            [next(i for i, p in enumerate(phrases) if name in level[p]) for name in recipe.CLASSNAMES]
        )[reported]
        weights = class_weights(bundled.model, bundled.tokenizer, phrases, (first,))
        flags = (embeddings @ weights).argmax(dim=1).cpu() == above
        of = {
            phrase: share(flags[above == i].numpy())._asdict()
            for i, phrase in enumerate(phrases)
            if (above == i).any()
        }
        result["words_above"].append({"all": share(flags.numpy())._asdict(), "of": of})
    write_text(out / "MODEL_CARD.md", model_card(result, bundled.model))
    write_text(out / "report.json", json.dumps(result, indent=2) + "\n")  # last: whoever finds it finds both
