"""From the names that data sets give their classes to words of a prompt."""

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
    """fish_and_chips -> fish and chips; apse/indoor -> apse indoor."""
    return name.replace("_", " ").replace("/", " ")


def camel_case(name: str) -> str:
    """AnnualCrop -> annual crop."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def caltech101(name: str) -> str:
    """Faces_easy -> faces easy."""
    return spaced(name).lower()


def caltech256(name: str) -> str:
    """002.american-flag -> american flag; 064.elephant-101, a class of Caltech-101 -> elephant."""
    return name.partition(".")[2].removesuffix("-101").replace("-", " ")


def aircraft(name: str) -> str:
    """737-700 -> Boeing 737-700: the variants that are called by a bare number are Boeing's."""
    return f"Boeing {name}" if name[0].isdigit() else name


def flower(name: str) -> str:
    """One of the 102 carries a question mark."""
    return name.rstrip("?")


def imagenet(classes: Sequence[Sequence[str]]) -> list[str]:
    """Names of ImageNet's classes, given as synonyms in the order of their WordNet ids.

    All thousand are called as open_clip does, but for the two pairs that it gives one name each; part of
    them by their first synonym.
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
    """n01440764 -> tench; another name stays as it is."""
    return _IMAGENETTE.get(name, spaced(name))


def synsets(classes: Sequence[Sequence[str]]) -> list[str]:
    """The first synonym of each class; all of them where two classes share the first."""
    return _distinct([synonyms[0] for synonyms in classes], [", ".join(synonyms) for synonyms in classes])


def _distinct(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """Names, with the other one for classes whose name is not theirs alone."""
    count = Counter(names)
    return [name if count[name] == 1 else other for name, other in zip(names, others, strict=True)]
