"""Turns the names that data sets give their classes into words of a prompt."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import open_clip

__all__ = [
    "aircraft",
    "caltech101",
    "caltech256",
    "camel_case",
    "flower",
    "imagenet",
    "imagenette",
    "spaced",
    "synsets",
]


def spaced(name: str) -> str:
    """Replaces underscores and slashes by spaces, as in fish_and_chips -> fish and chips."""
    return name.replace("_", " ").replace("/", " ")


def camel_case(name: str) -> str:
    """Separates words and lowers them, as in AnnualCrop -> annual crop."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def caltech101(name: str) -> str:
    """Replaces underscores and slashes by spaces and lowers words, as in Faces_easy -> faces easy."""
    return spaced(name).lower()


def caltech256(name: str) -> str:
    """Removes the number and replaces hyphens by spaces, as in 002.american-flag -> american flag.

    Classes of Caltech-101 also lose their ending, as in 064.elephant-101 -> elephant.
    """
    return name.partition(".")[2].removesuffix("-101").replace("-", " ")


def aircraft(name: str) -> str:
    """Puts "Boeing" before a name that begins with a digit, as in 737-700 -> Boeing 737-700.

    The variants that are called by a bare number are Boeing's.
    """
    return f"Boeing {name}" if name[0].isdigit() else name


def flower(name: str) -> str:
    """Removes the question mark that one of the 102 names ends with."""
    return name.rstrip("?")


def imagenet(classes: Sequence[Sequence[str]]) -> list[str]:
    """Returns names of ImageNet's classes.

    If all thousand are given, they are called as in open_clip, except for the two pairs of classes that
    share a name there. Those are called by their first synonym. If another number is given, all are
    called as by `synsets`.

    Args:
        classes: The synonyms of each class, in the order of WordNet ids.
    """
    if len(classes) != len(open_clip.IMAGENET_CLASSNAMES):
        return synsets(classes)
    return _distinct(open_clip.IMAGENET_CLASSNAMES, [synonyms[0] for synonyms in classes])


# WordNet ids of Imagenette's classes, named as open_clip names ImageNet's.
_IMAGENETTE = {
    "n01440764": "tench",
    "n02102040": "English Springer Spaniel",
    "n02979186": "cassette player",
    "n03000684": "chainsaw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}


def imagenette(name: str) -> str:
    """Returns the name of a WordNet id, as in n01440764 -> tench; other names go through `spaced`."""
    return _IMAGENETTE.get(name, spaced(name))


def synsets(classes: Sequence[Sequence[str]]) -> list[str]:
    """Returns the first synonym of each class, or all of its synonyms if two classes share the first.

    Args:
        classes: The synonyms of each class.
    """
    return _distinct([synonyms[0] for synonyms in classes], [", ".join(synonyms) for synonyms in classes])


def _distinct(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """Returns names, but the other one for classes whose name is not theirs alone."""
    count = Counter(names)
    return [name if count[name] == 1 else other for name, other in zip(names, others, strict=True)]
