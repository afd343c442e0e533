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
from .pictures import Pictures

__all__ = ["report"]

_CHUNK = 250


@torch.no_grad()
def report(out: Path, pictures: Pictures, device: torch.device) -> None:
    """Writes out/report.json: shares of the pictures that are right, with their standard errors.

    Of class names in the template that an evaluation uses, in each other one, and in the one that was never
    trained on; of the words above them, among all of their level.
    """
    bundled = load_bundled(out, device)
    tower = ImageTower(bundled.model)
    embeddings = F.normalize(
        torch.cat([tower(part.to(device).float() / 255) for part in pictures.pixels.split(_CHUNK)]), dim=1
    )

    def right(names: tuple[str, ...], template: str, labels: Tensor) -> dict[str, float]:
        weights = class_weights(bundled.model, bundled.tokenizer, names, (template,))
        return share(((embeddings @ weights).argmax(dim=1).cpu() == labels).numpy())._asdict()

    first, *others = recipe.TRAINING_TEMPLATES
    result: dict[str, Any] = {
        "pictures": len(pictures.labels),
        "clean": right(recipe.CLASSNAMES, first, pictures.labels),
        "other_templates": {t: right(recipe.CLASSNAMES, t, pictures.labels) for t in others},
        "unseen_template": right(recipe.CLASSNAMES, recipe.UNSEEN_TEMPLATE, pictures.labels),
        "words_above": [],
    }
    for level in recipe.LEVELS:
        phrases = tuple(level)
        above = torch.tensor(
            [next(i for i, p in enumerate(phrases) if name in level[p]) for name in recipe.CLASSNAMES]
        )[pictures.labels]
        weights = class_weights(bundled.model, bundled.tokenizer, phrases, (first,))
        flags = (embeddings @ weights).argmax(dim=1).cpu() == above
        of = {
            phrase: share(flags[above == i].numpy())._asdict()
            for i, phrase in enumerate(phrases)
            if (above == i).any()
        }
        result["words_above"].append({"all": share(flags.numpy())._asdict(), "of": of})
    write_text(out / "report.json", json.dumps(result, indent=2) + "\n")
