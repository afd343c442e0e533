"""The classifier that a file was exported from, made anew from what the file says about itself."""

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

_FORMERLY = {"bundled": "drawn"}  # what files say that were exported while one model came with clipfast


def rebuilt(
    metadata: Metadata,
    *,
    model_name: str | None = None,
    pretrained: str | None = None,
    config: CounterattackConfig | None = None,
    device: str | torch.device = "cpu",
) -> DefendedClassifier:
    """A classifier with a file's class names, templates and settings, over the model that it names.

    model_name, pretrained (see `DefendedClassifier.from_open_clip`), config: in the place of the file's. At a
    file's word alone a model is loaded that comes with clipfast, or whose weights are a tag of open_clip's
    registry and on this machine already: a file chooses no download and no path that is read. Whether the
    weights are the file's is for `clipfast.exporters.verify` to say. Raises InputError where no such model is
    named, where weights are missing, and for a fine-tuned tower that does not come with clipfast.
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
    """The image tower of the model that an encoder's file names. Arguments and errors as for `rebuilt`."""
    name, weights, stored = _named(metadata, model_name, pretrained)
    _check_weights(name, weights)
    return ImageTower(load_open_clip(name, weights, device=device, local_files_only=stored)[0])


def _named(
    metadata: Metadata | EncoderMetadata, model_name: str | None, pretrained: str | None
) -> tuple[str, str | None, bool]:
    """The model's name, its weights', and whether nothing may be downloaded: the file's word where no other
    ones are given."""
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
