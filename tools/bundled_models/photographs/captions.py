"""The captions that pictures are held against: class names and the words above them, in random templates."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from . import recipe

__all__ = ["captions", "membership"]


def captions(seed: int, step: int) -> list[str]:
    """Texts of one step: a caption a class, then of each level a caption a phrase that is trained on.

    Random synonyms in random templates.
    """
    rng = np.random.default_rng((seed, step))
    names = [str(rng.choice((name, *recipe.SYNONYMS.get(name, ())))) for name in recipe.CLASSNAMES]
    names += [phrase for level in recipe.LEVELS for phrase in _trained(level)]
    templates = rng.choice(recipe.TRAINING_TEMPLATES, len(names))
    return [str(t).format(name) for t, name in zip(templates, names, strict=True)]


def membership() -> list[Tensor]:
    """Of each level, which class is under which phrase that is trained on: float32 [10, phrases]."""
    return [
        torch.tensor(
            [[float(name in level[phrase]) for phrase in _trained(level)] for name in recipe.CLASSNAMES]
        )
        for level in recipe.LEVELS
    ]


def _trained(level: dict[str, tuple[str, ...]]) -> list[str]:
    return [phrase for phrase in level if phrase != recipe.UNSEEN_WORD]
