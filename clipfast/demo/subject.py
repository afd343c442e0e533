"""The subject of a demo: pictures with labels, a model, and what may be said of both."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..classifier import DefendedClassifier
from ..config import Preset
from ..errors import InputError
from ..evaluation.datasets import PAPER_TEMPLATES, Dataset, Files, find_dataset
from ..evaluation.model_pair import ModelPair
from ..models.bundled import BUNDLED, bundled_defaults, bundled_folder
from ..models.shapes import KINDS, draw
from ..preprocess import image_files

__all__ = ["DEFENCES", "Described", "ModelChoice", "Subject", "drawn_subject", "folder_subject"]

DEFENCES: dict[Preset, str] = {"published": "TTC as published", "recommended": "recommended"}

# The reports on the bundled model use other random streams, so these pictures are new.
_STREAM = 100


class Described(NamedTuple):
    """Texts for readers of a demo.

    Attributes:
        title: The title of the table.
        lead: What is shown, in a sentence or two.
        pictures: The pictures that accuracy is measured on, and how their labels were found.
        limits: What the demo is no evidence of.
    """

    title: str
    lead: str
    pictures: str
    limits: str


class ModelChoice(NamedTuple):
    """The model of a demo.

    Attributes:
        model: open_clip's name of the model, or a bundled model's name.
        pretrained: open_clip's tag or a file of weights; None for a model that brings its weights.
        checkpoint: The image tower of the model's fine-tuned twin, or None.
    """

    model: str = "drawn"
    pretrained: str | None = None
    checkpoint: Path | None = None


@dataclass(frozen=True)
class Subject:
    """N pictures with labels, and the classifiers that a demo compares on them.

    Attributes:
        described: Texts about the pictures and the model.
        names: The names of the N pictures, without spaces.
        pixels: uint8 [N, 3, H, W].
        labels: int64 [N], indices into the class names.
        defended: The classifiers by preset, all over one model.
        twin: A classifier over the model's fine-tuned tower, or None if there is none.
    """

    described: Described
    names: list[str]
    pixels: Tensor
    labels: Tensor
    defended: dict[Preset, DefendedClassifier]
    twin: DefendedClassifier | None

    @property
    def classifier(self) -> DefendedClassifier:
        """One of the classifiers, for what they have in common."""
        return self.defended["recommended"]


def drawn_subject(images: int, seed: int) -> Subject:
    """Draws new pictures, with the bundled model that was trained on such pictures.

    Args:
        images: The number of pictures.
        seed: The seed of the pictures, from 0.
    """
    dataset = find_dataset("drawn")
    defended, twin = _classifiers(ModelChoice(), dataset)
    pictures = draw(images, seed=(_STREAM, seed), size=defended["recommended"].image_size[0])
    names = [
        f"{i:03d}-{KINDS[kind]}-{dataset.classnames[label].replace(' ', '-')}"
        for i, (kind, label) in enumerate(zip(pictures.kinds, pictures.labels, strict=True))
    ]
    described = Described(
        title="bundled model",
        lead="A tiny CLIP names drawn pictures.",
        pictures=f"{images} freshly drawn pictures",
        limits="A tiny model on drawn shapes: it shows the mechanism and is no evidence about real CLIP.",
    )
    pixels, labels = torch.from_numpy(pictures.pixels), torch.from_numpy(pictures.labels)
    return Subject(described, names, pixels, labels, defended, twin)


def folder_subject(
    folder: Path,
    choice: ModelChoice,
    classnames: Sequence[str] | None,
    *,
    images: int,
    seed: int,
    device: str = "cpu",
) -> Subject:
    """Reads a user's own pictures, for any model.

    If the pictures lie in class folders whose names are class names, these are their labels. Otherwise
    their labels are the undefended model's own answers. At most `images` of them are drawn at random;
    pictures that cannot be read are counted and left out.

    Args:
        folder: The folder of pictures.
        choice: The model.
        classnames: The class names. None takes those of a bundled model, else the names of the class
            folders.
        images: The largest number of pictures, at least 1.
        seed: The seed of the draw, from 0.
        device: The device of the model.

    Raises:
        InputError: If there are no pictures or none can be read; class names are missing; `images` or
            `seed` is too small; or the model or its twin cannot be loaded, as for `ModelPair`.
    """
    if classnames is None and choice.model in BUNDLED:
        classnames = bundled_defaults(bundled_folder(choice.model)).classnames
    read, labelled = _pictures(folder, classnames)
    dataset = dataclasses.replace(read, classnames=tuple(classnames or read.classnames))
    defended, twin = _classifiers(choice, dataset, device=device)
    classifier = defended["recommended"]
    taken = read.take(classifier.preprocess, images, seed=seed)
    if labelled:
        found = "labels are the class folders'"
        labels = torch.tensor([dataset.classnames.index(read.classnames[i]) for i in taken.labels.tolist()])
    else:
        found = "labels are the undefended model's own answers, so it is right on all clean pictures"
        with torch.no_grad():
            parts = [classifier.undefended(part.to(device)).argmax(dim=1) for part in taken.pixels.split(16)]
        labels = torch.cat(parts).cpu()
    skipped = f", {len(taken.skipped)} more could not be read" if taken.skipped else ""
    name = " ".join(part for part in (choice.model, choice.pretrained) if part is not None)
    described = Described(
        title=name,
        lead=f"{name} names the pictures of {folder.name}.",
        pictures=f"{len(taken)} pictures of {folder.name} ({found}{skipped})",
        limits=(
            "Few pictures and short attacks: `clipfast eval` measures with more of both, and "
            "`clipfast calibrate` sets a threshold for this model."
        ),
    )
    names = [f"{i:03d}-{Path(name).stem.replace(' ', '-')}" for i, name in enumerate(taken.names)]
    return Subject(described, names, taken.pixels, labels, defended, twin)


def _classifiers(
    choice: ModelChoice, dataset: Dataset, *, device: str = "cpu"
) -> tuple[dict[Preset, DefendedClassifier], DefendedClassifier | None]:
    pair = ModelPair(choice.model, choice.pretrained, choice.checkpoint, config=None, device=device)
    published, twin = pair.classifiers(dataset)
    recommended = published.with_config(pair.recommended, on_trial=True)
    return {"published": published, "recommended": recommended}, twin


def _pictures(folder: Path, classnames: Sequence[str] | None) -> tuple[Dataset, bool]:
    """The pictures below a folder, and whether their labels are those of class folders."""
    if not folder.is_dir():
        raise InputError(f"expected a folder of pictures, got {folder}")
    if any(path.is_dir() and not path.name.startswith(".") for path in folder.iterdir()):
        found = find_dataset(folder)
        if classnames is None or set(found.classnames) <= set(classnames):
            return found, True
    if classnames is None:
        raise InputError(f"expected class names (--classnames), or class folders in {folder}")
    files = Files(folder, ((file, 0) for file in image_files([folder])))
    return Dataset(
        name=folder.name, classnames=tuple(classnames), templates=PAPER_TEMPLATES, pictures=files
    ), False
