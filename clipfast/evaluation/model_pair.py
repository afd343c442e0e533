"""The model under evaluation and its fine-tuned twin: loaded once, whatever it is evaluated on."""

from __future__ import annotations

import copy
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..classifier import DefendedClassifier
from ..config import CounterattackConfig
from ..errors import UncalibratedWarning
from ..models.bundled import BUNDLED, BUNDLED_DIR, bundled_defaults
from ..models.checkpoint import load_image_tower
from ..models.loading import load_open_clip, source_of
from .datasets import Dataset

__all__ = ["ModelPair"]


class ModelPair:
    """An open_clip model, and where there is one its adversarially fine-tuned twin.

    model, pretrained: open_clip's names, or None for the bundled model, which has its twin, and its settings
    where config is None. checkpoint: of the twin's image tower. config: of the counterattack. Raises
    InputError for what cannot be loaded.
    """

    def __init__(
        self,
        model: str | None,
        pretrained: str | None,
        checkpoint: Path | None,
        *,
        config: CounterattackConfig | None,
        device: str | torch.device,
    ) -> None:
        if model is None:
            model, checkpoint = BUNDLED, BUNDLED_DIR / "tecoa.pt"
            config = bundled_defaults().config if config is None else config
        original, tokenizer = load_open_clip(model, pretrained, device=device)
        source = source_of(model, pretrained)
        self._options: dict[str, Any] = {"tokenizer": tokenizer, "config": config, "_source": source}
        self._original, self._tuned = original, _tuned(original, checkpoint)

    def classifiers(self, dataset: Dataset) -> tuple[DefendedClassifier, DefendedClassifier | None]:
        """Both as classifiers with a data set's class names and templates; drift is the original's."""
        make = partial(
            DefendedClassifier,
            classnames=dataset.classnames,
            templates=dataset.templates,
            **self._options,
        )
        with warnings.catch_warnings():
            # An evaluation is how one finds out; the report says whether it was calibrated.
            warnings.simplefilter("ignore", UncalibratedWarning)
            twin = None if self._tuned is None else make(self._tuned, drift_model=self._original)
            return make(self._original), twin


def _tuned(original: nn.Module, checkpoint: Path | None) -> nn.Module | None:
    if checkpoint is None:
        return None
    tuned: Any = copy.deepcopy(original)
    load_image_tower(tuned.visual, checkpoint)
    return tuned
