"""The model under evaluation and its fine-tuned twin, loaded once for all data sets."""

from __future__ import annotations

import copy
import warnings
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from ..classifier import DefendedClassifier
from ..config import CounterattackConfig, Preset
from ..errors import UncalibratedWarning
from ..models.bundled import BUNDLED, bundled_defaults, bundled_folder, bundled_twin
from ..models.checkpoint import load_image_tower
from ..models.loading import load_open_clip, source_of
from .datasets import Dataset

__all__ = ["ModelPair"]


class ModelPair:
    """An open_clip model and, if there is one, its adversarially fine-tuned twin.

    Without a config, a bundled model has its own settings. It may have a twin of its own too.

    Args:
        model: open_clip's name of the model, or a bundled model's.
        pretrained: open_clip's name of the weights, or a file of them; None for a model that brings its
            own, and for random weights of any other.
        checkpoint: The image tower of the twin; None for a bundled model's own, if it has one.
        config: Takes the place of the published settings if it is of their kind, else of the recommended
            ones.
        device: Where both models run.

    Attributes:
        recommended: The settings of the defence of that name; the classifiers have the published ones.

    Raises:
        InputError: If something cannot be loaded.
    """

    def __init__(
        self,
        model: str,
        pretrained: str | None,
        checkpoint: Path | None,
        *,
        config: CounterattackConfig | None,
        device: str | torch.device,
    ) -> None:
        if model in BUNDLED:
            folder = bundled_folder(model)
            checkpoint = checkpoint or bundled_twin(model)
            published, recommended = (bundled_defaults(folder, preset).config for preset in get_args(Preset))
        else:
            published, recommended = (CounterattackConfig.of(preset) for preset in get_args(Preset))
        if config is not None and config.is_ttc():
            published = config
        elif config is not None:
            recommended = config
        self.recommended = recommended
        original, tokenizer = load_open_clip(model, pretrained, device=device)
        source = source_of(model, pretrained)
        self._options: dict[str, Any] = {"tokenizer": tokenizer, "config": published, "_source": source}
        self._original, self._tuned = original, _tuned(original, checkpoint)

    def classifiers(self, dataset: Dataset) -> tuple[DefendedClassifier, DefendedClassifier | None]:
        """Builds both as classifiers with a data set's class names and templates.

        Args:
            dataset: The data set.

        Returns:
            The model's classifier, and that of the twin, whose drift the original measures; None without
            a twin.

        Raises:
            InputError: If the class names or templates do not suit the model.
        """
        make = partial(
            DefendedClassifier,
            classnames=dataset.classnames,
            templates=dataset.templates,
            **self._options,
        )
        with warnings.catch_warnings():
            # An evaluation shows how good a threshold is; the report says whether it was calibrated.
            warnings.simplefilter("ignore", UncalibratedWarning)
            twin = None if self._tuned is None else make(self._tuned, drift_model=self._original)
            return make(self._original), twin


def _tuned(original: nn.Module, checkpoint: Path | None) -> nn.Module | None:
    if checkpoint is None:
        return None
    tuned: Any = copy.deepcopy(original)
    load_image_tower(tuned.visual, checkpoint)
    return tuned
