"""Data sets through torchvision's own classes."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from PIL import Image

from .dataset import Contents, Files

__all__ = ["TorchvisionReader", "named", "split_argument", "train_argument", "without_split"]


def split_argument(split: str) -> dict[str, Any]:
    """Returns the argument of classes that take a split by name."""
    return {"split": split}


def train_argument(split: str) -> dict[str, Any]:
    """Returns the argument of classes that only ask whether it is the training split."""
    return {"train": split == "train"}


def without_split(_: str) -> dict[str, Any]:
    """Returns no argument, for classes that have one split."""
    return {}


def named(words: Callable[[str], str] = str, *, attribute: str = "classes") -> Callable[[Any], Iterable[str]]:
    """Builds a function that takes class names from an attribute of a torchvision data set.

    Args:
        words: Turns each name into words of a prompt.
        attribute: The attribute that holds the names.
    """
    return lambda dataset: map(words, attrgetter(attribute)(dataset))


@dataclass(frozen=True, kw_only=True)
class TorchvisionReader:
    """Reads the data set of one torchvision class.

    Attributes:
        name: The class's name.
        classnames: Takes class names, as words of a prompt, from an instance.
        arguments: Returns what the class takes for a split.
        paths: Whether the class takes a loader, and so can give paths instead of decoded pictures.
        downloads: Whether the class takes `download`.
    """

    name: str
    classnames: Callable[[Any], Iterable[str]]
    arguments: Callable[[str], dict[str, Any]] = split_argument
    paths: bool = True
    downloads: bool = True

    def __call__(self, root: Path, split: str, download: bool) -> Contents:
        """Reads what is below a root.

        Args:
            root: The folder of the data set.
            split: The split.
            download: Whether torchvision may download it, if the class can.

        Raises:
            Exception: Whatever torchvision raises if the data are missing or broken.
        """
        arguments = self.arguments(split)
        if self.downloads:
            arguments["download"] = download
        if self.paths:
            arguments["loader"] = Path
        reader = getattr(importlib.import_module("torchvision.datasets"), self.name)
        dataset = reader(str(root), **arguments)
        classnames = tuple(self.classnames(dataset))
        if self.paths:
            return Contents(classnames, Files(root, (dataset[index] for index in range(len(dataset)))))
        return Contents(classnames, _Indexed(dataset, split))


class _Indexed:
    """Pictures that torchvision decodes itself, named by their split and index."""

    def __init__(self, dataset: Any, split: str) -> None:
        self._dataset = dataset
        self._split = split

    def __len__(self) -> int:
        return len(self._dataset)

    def name(self, index: int) -> str:
        """The split and the index in it."""
        return f"{self._split}/{index:06d}"

    def read(self, index: int) -> tuple[Image.Image, int]:
        """The picture and its label."""
        picture, label = self._dataset[index]
        return picture, int(label)
