"""Fixed linear changes of a picture, by name: for gates, ascents and views.

A transform is written as its name and its parameters: "blur", "low_pass 40", "crop 0.9 top-left". Several
in a row are written as "mirror then blur". The two forms in torch are
`clipfast.reference_stages.transformed` and `clipfast.defence.transforming.picture_map`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from .errors import InputError

__all__ = [
    "PLACES",
    "TRANSFORMS",
    "Transform",
    "crop_window",
    "csr_radius",
    "gaussian_weights",
    "parse_chain",
    "written",
]

_LONGEST_CHAIN = 8
PLACES = ("centre", "top-left", "top-right", "bottom-left", "bottom-right")


class _Number(NamedTuple):
    what: str
    fits: Callable[[float], bool]


class TransformFacts(NamedTuple):
    """What a transform does, and which parameters it takes.

    Attributes:
        what: What it does, in words.
        number: What its number means and which numbers it takes; None if it takes no number.
        has_place: Whether it takes a place, one of PLACES.
    """

    what: str
    number: _Number | None = None
    has_place: bool = False


TRANSFORMS = {
    "identity": TransformFacts("the picture as it is"),
    "mirror": TransformFacts("left and right exchanged"),
    "blur": TransformFacts("a 3x3 mean filter, edges replicated"),
    "gaussian": TransformFacts(
        "a Gaussian filter, cut off at three standard deviations, edges replicated",
        _Number("a standard deviation above 0 and at most 8 pixels", lambda number: 0 < number <= 8),
    ),
    "low_pass": TransformFacts(
        "the frequencies of at most so many cycles a picture (CSR, arXiv 2601.19210)",
        _Number("a positive radius in cycles a picture", lambda number: 0 < number < math.inf),
    ),
    "crop": TransformFacts(
        "a part of each side, enlarged to the whole (bilinear)",
        _Number("a share of each side of at least 0.5 and below 1", lambda number: 0.5 <= number < 1),
        has_place=True,
    ),
}


@dataclass(frozen=True)
class Transform:
    """A transform's name and parameters; `str` gives the text that `parse` reads.

    Attributes:
        name: One of TRANSFORMS.
        number: Its number, if it takes one: a standard deviation in pixels ("gaussian"), a radius in
            cycles a picture ("low_pass"), or a share of each side ("crop").
        place: Where a crop lies, one of PLACES; None for other transforms.
    """

    name: str
    number: float | None = None
    place: str | None = None

    @classmethod
    def parse(cls, text: str) -> Transform:
        """Reads "NAME", "NAME NUMBER" or "NAME NUMBER PLACE".

        Raises:
            InputError: If the transform is unknown, or the parameters are not those that it takes.
        """
        name, *parameters = text.split() or [""]
        facts = TRANSFORMS.get(name)
        if facts is None:
            raise InputError(f"expected a transform of {', '.join(TRANSFORMS)}, got {text!r}")
        number = place = None
        if facts.number is not None and parameters:
            try:
                number = float(parameters.pop(0))
            except ValueError:
                number = math.nan
        if facts.has_place and parameters:
            place = parameters.pop(0)
        if facts.number is not None and (number is None or not facts.number.fits(number)):
            raise InputError(f"expected {name} with {facts.number.what}, got {text!r}")
        if facts.has_place and place not in PLACES:
            raise InputError(f"expected {name} with a place of {', '.join(PLACES)}, got {text!r}")
        if parameters:
            raise InputError(f"expected nothing after {name}, got {text!r}")
        return cls(name, number, place)

    def __str__(self) -> str:
        parts = (self.name, None if self.number is None else f"{self.number!r}", self.place)
        return " ".join(part for part in parts if part is not None)

    def check_size(self, size: tuple[int, int]) -> None:
        """Checks that a crop cuts something off a picture; other transforms fit every size.

        Args:
            size: (height, width) of the picture in pixels.

        Raises:
            InputError: If the crop is as large as the picture.
        """
        if self.name == "crop" and crop_window(self, size)[2:] == size:
            raise InputError(f"expected a crop that cuts at least one pixel of {size}, got {str(self)!r}")


def parse_chain(text: str) -> tuple[Transform, ...]:
    """Reads "A then B" as transforms in the order in which they are made; often it is only one.

    Raises:
        InputError: If `text` is not a string, as `Transform.parse` does, for "identity" among several
            transforms, and for more than eight of them.
    """
    if not isinstance(text, str):
        raise InputError(f"expected a transform as a string, got {text!r}")
    parts = text.split(" then ")
    if len(parts) > _LONGEST_CHAIN:
        raise InputError(f"expected at most {_LONGEST_CHAIN} transforms in a row, got {len(parts)}")
    chain = tuple(map(Transform.parse, parts))
    if len(chain) > 1 and any(transform.name == "identity" for transform in chain):
        raise InputError(f"expected identity by itself, got {text!r}")
    return chain


def written(chain: tuple[Transform, ...]) -> str:
    """Returns the text that `parse_chain` reads as these transforms."""
    return " then ".join(map(str, chain))


def crop_window(crop: Transform, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Returns where a crop lies in a picture.

    Args:
        crop: A transform "crop".
        size: (height, width) of the picture in pixels.

    Returns:
        The crop's first row, its first column, its height and its width.
    """
    assert crop.number is not None
    assert crop.place is not None
    height, width = (max(1, round(crop.number * side)) for side in size)
    spare = size[0] - height, size[1] - width
    if crop.place == "centre":
        return spare[0] // 2, spare[1] // 2, height, width
    return spare[0] * ("bottom" in crop.place), spare[1] * ("right" in crop.place), height, width


def csr_radius(size: tuple[int, int]) -> float:
    """Returns the radius of a low-pass filter that cuts off as much of a picture as CSR's does.

    CSR (arXiv 2601.19210) keeps 40 cycles of 224 pixels.

    Args:
        size: (height, width) of the picture in pixels.

    Returns:
        The radius in cycles a picture, in proportion to the shorter side.
    """
    return 40 * min(size) / 224


def gaussian_weights(deviation: float) -> list[float]:
    """Returns the weights of a Gaussian filter, which sum to 1.

    Args:
        deviation: The standard deviation in pixels.

    Returns:
        2 ceil(3 deviation) + 1 weights, from one end of the filter to the other.
    """
    reach = math.ceil(3 * deviation)
    heights = [math.exp(-0.5 * (i / deviation) ** 2) for i in range(-reach, reach + 1)]
    return [height / sum(heights) for height in heights]
