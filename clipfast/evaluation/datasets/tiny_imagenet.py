"""Tiny ImageNet as its archive unpacks; torchvision has no class for it."""

from __future__ import annotations

from pathlib import Path

from ...errors import InputError
from ...files import read_lines
from .class_words import synsets
from .dataset import Contents, Files

__all__ = ["read_tiny_imagenet"]


def read_tiny_imagenet(root: Path, split: str, download: bool) -> Contents:  # noqa: ARG001
    """Reads the pictures of 200 classes, which a split's annotations file labels by WordNet id.

    Args:
        root: The folder that tiny-imagenet-200 lies in.
        split: The split; the registry knows "val" alone.
        download: Not used.

    Raises:
        InputError: If a text file is missing or not as it was published.
    """
    folder = root / "tiny-imagenet-200"
    wnids = sorted(read_lines(folder / "wnids.txt"))
    synonyms = dict(_fields(folder / "words.txt"))
    label = {wnid: index for index, wnid in enumerate(wnids)}
    pictures = folder / split / "images"
    try:
        classes = [synonyms[wnid].split(", ") for wnid in wnids]
        labelled = [
            (pictures / file, label[wnid])
            for file, wnid in _fields(folder / split / f"{split}_annotations.txt")
        ]
    except KeyError as error:
        raise InputError(f"expected WordNet ids that all files of {folder} know, got {error}") from error
    return Contents(tuple(synsets(classes)), Files(root, labelled))


def _fields(path: Path) -> list[tuple[str, str]]:
    """Returns the first two of the tab-separated fields of each line."""
    rows = [line.split("\t") for line in read_lines(path)]
    if any(len(row) < 2 for row in rows):
        raise InputError(f"expected fields separated by tabs in each line of {path}")
    return [(row[0], row[1]) for row in rows]
