"""The classifier that a file was exported from, made anew from what the file says about itself."""

from __future__ import annotations

from typing import Any

import torch

from ..artifacts.encoder_metadata import EncoderMetadata
from ..artifacts.metadata import Metadata
from ..classifier import DefendedClassifier
from ..errors import InputError
from ..models.bundled import BUNDLED
from ..models.loading import brings_weights, load_open_clip
from ..models.tower import ImageTower

__all__ = ["rebuilt", "rebuilt_tower"]

_FORMERLY = {"bundled": "drawn"}  # what files say that were exported while one model came with clipfast


def rebuilt(
    metadata: Metadata,
    *,
    model_name: str | None = None,
    pretrained: str | None = None,
    device: str | torch.device = "cpu",
) -> DefendedClassifier:
    """A classifier with a file's class names, templates and settings, over the model that it names.

    model_name, pretrained: see `DefendedClassifier.from_open_clip`; in the place of the file's. Whether the
    weights are the file's is for `clipfast.exporters.verify` to say. Raises InputError where no model is
    named, where weights are missing, and for a fine-tuned tower that does not come with clipfast.
    """
    name, weights = _named(metadata, model_name, pretrained)
    options: dict[str, Any] = {
        "templates": metadata.templates,
        "config": metadata.config,
        "device": device,
    }
    finetuned = metadata.drift_weights_sha256 is not None
    if name in BUNDLED and weights is None:
        return DefendedClassifier.bundled(name, metadata.classnames, finetuned=finetuned, **options)
    if finetuned:
        raise InputError(
            f"the file was exported from a fine-tuned {name}: verify it in Python, with the classifier of "
            "DefendedClassifier.from_finetuned"
        )
    _check_weights(name, weights)
    return DefendedClassifier.from_open_clip(name, weights, metadata.classnames, **options)


def rebuilt_tower(
    metadata: EncoderMetadata,
    *,
    model_name: str | None = None,
    pretrained: str | None = None,
    device: str | torch.device = "cpu",
) -> ImageTower:
    """The image tower of the model that an encoder's file names. Arguments and errors as for `rebuilt`."""
    name, weights = _named(metadata, model_name, pretrained)
    _check_weights(name, weights)
    return ImageTower(load_open_clip(name, weights, device=device)[0])


def _named(
    metadata: Metadata | EncoderMetadata, model_name: str | None, pretrained: str | None
) -> tuple[str, str | None]:
    """The model's name and its weights', the file's where no other ones are given."""
    name = model_name or metadata.model_name
    weights = metadata.pretrained if model_name is None and pretrained is None else pretrained
    if name is None:
        raise InputError("the file names no model: say which it was exported from (--against)")
    return _FORMERLY.get(name, name), weights


def _check_weights(name: str, weights: str | None) -> None:
    if weights is None and not brings_weights(name):
        raise InputError(f"{name} needs weights (--pretrained): a tag of open_clip or a file")
