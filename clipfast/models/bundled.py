"""The tiny CLIPs that come with clipfast, each in a folder with its card, its labels and its settings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import open_clip
import torch
from torch import nn

from ..config import CounterattackConfig, Preset
from ..errors import InputError
from .tokenizer import WordTokenizer

__all__ = [
    "BUNDLED",
    "BUNDLED_DIR",
    "BundledDefaults",
    "BundledModel",
    "BundledName",
    "bundled_defaults",
    "bundled_folder",
    "bundled_twin",
    "load_bundled",
]

# "drawn" knows coloured shapes, "photographs" the classes of CIFAR-10.
BundledName = Literal["drawn", "photographs"]
BUNDLED: tuple[BundledName, ...] = get_args(BundledName)  # accepted besides open_clip's registry names

BUNDLED_DIR = Path(__file__).parent / "bundled"


class BundledDefaults(NamedTuple):
    """What a classifier over a bundled model has unless something else is asked for.

    Attributes:
        classnames: The names of the model's classes.
        config: A preset's settings, with the model's own calibrated threshold if the preset has one.
    """

    classnames: tuple[str, ...]
    config: CounterattackConfig


@dataclass(frozen=True)
class BundledModel:
    """A bundled model and what belongs to it.

    Attributes:
        model: An open_clip model in eval mode, float32.
        tokenizer: The model's tokenizer.
        classnames: The names of the model's classes.
        config: The preset "recommended", as of `bundled_defaults`.
    """

    model: nn.Module
    tokenizer: WordTokenizer
    classnames: tuple[str, ...]
    config: CounterattackConfig


def bundled_folder(name: str) -> Path:
    """Returns the folder of a bundled model.

    Raises:
        InputError: If there is no bundled model of that name.
    """
    if name not in BUNDLED:
        raise InputError(f"expected a bundled model of {', '.join(BUNDLED)}, got {name!r}")
    return BUNDLED_DIR / name


def bundled_twin(name: str) -> Path | None:
    """Returns the file of a bundled model's adversarially fine-tuned image tower, None if it has none.

    Raises:
        InputError: If there is no bundled model of that name.
    """
    file = bundled_folder(name) / "tecoa.pt"
    return file if file.exists() else None


def bundled_defaults(folder: Path, preset: Preset = "recommended") -> BundledDefaults:
    """Reads the class names and a preset's settings in a bundled model's folder, without the model.

    Args:
        folder: The model's folder.
        preset: "published" or "recommended".

    Raises:
        InputError: If there is no such preset.
    """
    classnames = tuple(_labels(folder)["classnames"])
    config = CounterattackConfig.of(preset)
    settings = folder / f"{preset}.json"  # missing if the preset needs no threshold of the model's own
    if settings.exists():
        config = CounterattackConfig.from_json(settings.read_text())
    return BundledDefaults(classnames, config)


def load_bundled(folder: Path, device: str | torch.device = "cpu") -> BundledModel:
    """Loads the model in a folder, in eval mode and float32 (it is stored as float16).

    Args:
        folder: The model's folder.
        device: Where the model goes.
    """
    labels = _labels(folder)
    model = open_clip.create_model(f"local-dir:{folder}", device=device, require_pretrained=True)
    tokenizer = WordTokenizer(labels["words"], context_length=labels["context_length"])
    return BundledModel(model.eval(), tokenizer, *bundled_defaults(folder))


def _labels(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "labels.json").read_text())
