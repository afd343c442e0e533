"""Rebuilds the classifier that a file was exported from, by what the file says about itself."""

from __future__ import annotations

from typing import Any

import open_clip
import torch

from ..artifacts.encoder_metadata import EncoderMetadata
from ..artifacts.metadata import Metadata
from ..classifier import DefendedClassifier
from ..config import CounterattackConfig
from ..errors import InputError
from ..models.bundled import BUNDLED
from ..models.loading import brings_weights, load_open_clip
from ..models.tower import ImageTower

__all__ = ["rebuilt", "rebuilt_tower"]

_FORMERLY = {"bundled": "drawn"}  # in files that were exported when clipfast came with one model


def rebuilt(
    metadata: Metadata,
    *,
    model_name: str | None = None,
    pretrained: str | None = None,
    config: CounterattackConfig | None = None,
    device: str | torch.device = "cpu",
) -> DefendedClassifier:
    """Builds a classifier with a file's class names, templates and settings, over the model it names.

    A file chooses no download and no path that is read. Unless the caller names the model, it must come
    with clipfast, or its weights must be a tag of open_clip's registry and already on this machine.
    Whether the weights are the file's is not checked here; `clipfast.exporters.verify` does that.

    Args:
        metadata: What the file says about itself.
        model_name: Replaces the file's model and its weights; see `DefendedClassifier.from_open_clip`.
        pretrained: Replaces the file's weights; see `DefendedClassifier.from_open_clip`. Named by the
            caller, weights may be downloaded.
        config: Replaces the file's settings.
        device: The device of the classifier.

    Returns:
        The classifier. It warns as `DefendedClassifier` does.

    Raises:
        InputError: If no model is named that may be loaded, its weights are missing or not named, or the
            file is of a fine-tuned tower that does not come with clipfast; or as for
            `DefendedClassifier.from_open_clip`.
    """
    name, weights, stored = _named(metadata, model_name, pretrained)
    options: dict[str, Any] = {
        "templates": metadata.templates,
        "config": config or metadata.config,
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
    return DefendedClassifier.from_open_clip(
        name, weights, metadata.classnames, local_files_only=stored, **options
    )


def rebuilt_tower(
    metadata: EncoderMetadata,
    *,
    model_name: str | None = None,
    pretrained: str | None = None,
    device: str | torch.device = "cpu",
) -> ImageTower:
    """Builds the image tower of the model that an encoder's file names.

    A file chooses no download and no path that is read, as for `rebuilt`.

    Args:
        metadata: What the file says about itself.
        model_name: Replaces the file's model and its weights, as for `rebuilt`.
        pretrained: Replaces the file's weights, as for `rebuilt`.
        device: The device of the tower.

    Raises:
        InputError: If no model is named that may be loaded, or its weights are missing or not named; or
            as for `DefendedClassifier.from_open_clip`.
    """
    name, weights, stored = _named(metadata, model_name, pretrained)
    _check_weights(name, weights)
    return ImageTower(load_open_clip(name, weights, device=device, local_files_only=stored)[0])


def _named(
    metadata: Metadata | EncoderMetadata, model_name: str | None, pretrained: str | None
) -> tuple[str, str | None, bool]:
    """The model's name, its weights' name, and whether nothing may be downloaded.

    The file's names count unless the caller gives others.
    """
    if model_name is not None:
        return _FORMERLY.get(model_name, model_name), pretrained, False
    if (said := metadata.model_name) is None:
        raise InputError("the file names no model: say which it was exported from (--against)")
    name = _FORMERLY.get(said, said)
    weights = metadata.pretrained if pretrained is None else pretrained
    if name in BUNDLED:
        return name, weights, False
    registered = name.replace("/", "-")
    if registered not in open_clip.list_models():
        raise InputError(
            f"the file names the model {name!r:.200}, which is not loaded at a file's word: name the one "
            "that it was exported from (--against)"
        )
    tags = open_clip.list_pretrained_tags_by_model(registered)
    if pretrained is None and weights is not None and weights not in tags:
        raise InputError(
            f"the file names the weights {weights!r:.200}, which are not read at a file's word: name the tag "
            "or file that they are in (--pretrained)"
        )
    return name, weights, pretrained is None


def _check_weights(name: str, weights: str | None) -> None:
    if weights is None and not brings_weights(name):
        raise InputError(f"{name} needs weights (--pretrained): a tag of open_clip or a file")
