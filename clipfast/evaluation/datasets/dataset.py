"""A data set: class names, prompts, and labelled pictures that are read when they are drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ...errors import InputError
from ...preprocess import ImageSource, Preprocess

__all__ = ["Contents", "Dataset", "Files", "Images", "LabelledPictures", "Skipped", "Subset"]


class LabelledPictures(Protocol):
    """Labelled pictures by index, read one at a time."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Returns a picture's name, which is unique and the same in every run."""
        ...

    def read(self, index: int) -> tuple[ImageSource, int]:
        """Returns a picture and its label.

        Raises:
            Exception: Whatever its decoder raises if it is broken.
        """
        ...


class Files:
    """Pictures in files, sorted by their paths below a root, which are their names.

    Args:
        root: The folder that all files lie below.
        labelled: Paths and labels.

    Raises:
        ValueError: If a path is not below the root.
    """

    def __init__(self, root: Path, labelled: Iterable[tuple[Path, int]]) -> None:
        self._files = sorted((path.relative_to(root).as_posix(), path, label) for path, label in labelled)

    def __len__(self) -> int:
        return len(self._files)

    def name(self, index: int) -> str:
        """Returns the path below the root, with forward slashes."""
        return self._files[index][0]

    def read(self, index: int) -> tuple[Path, int]:
        """Returns the path and the label."""
        return self._files[index][1:]


@dataclass(frozen=True)
class Subset:
    """A part of other pictures.

    Attributes:
        pictures: The other pictures.
        indices: The indices there of those that are in it.
    """

    pictures: LabelledPictures
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        """Returns the name that a picture has among the others."""
        return self.pictures.name(self.indices[index])

    def read(self, index: int) -> tuple[ImageSource, int]:
        """Returns the picture and its label.

        Raises:
            Exception: Whatever `pictures` raises.
        """
        return self.pictures.read(self.indices[index])


class Contents(NamedTuple):
    """What a data set holds.

    Attributes:
        classnames: The class names, as words of a prompt.
        pictures: The pictures, whose labels are indices into `classnames`.
    """

    classnames: tuple[str, ...]
    pictures: LabelledPictures


class Skipped(NamedTuple):
    """A picture that could not be read.

    Attributes:
        name: The picture's name.
        reason: Why it could not be read.
    """

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class Images:
    """N pictures that were drawn and read.

    Attributes:
        names: Their names, which are unique.
        pixels: uint8 [N, 3, H, W], RGB.
        labels: int64 [N], indices into the class names.
        skipped: Pictures that were drawn too and could not be read.
    """

    names: tuple[str, ...]
    pixels: Tensor
    labels: Tensor
    skipped: tuple[Skipped, ...] = ()

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Labelled pictures for zero-shot classification.

    Attributes:
        name: The data set's name.
        classnames: The class names, as words of a prompt.
        templates: Prompts with {} in the place of the class name.
        pictures: The pictures, whose labels are indices into `classnames`.

    Raises:
        InputError: If there are no pictures.
    """

    name: str
    classnames: tuple[str, ...]
    templates: tuple[str, ...]
    pictures: LabelledPictures

    def __post_init__(self) -> None:
        if not len(self):
            raise InputError(f"{self.name}: expected pictures, found none")

    def __len__(self) -> int:
        return len(self.pictures)

    def take(
        self,
        preprocess: Preprocess,
        images: int | None = None,
        *,
        seed: int = 0,
        after: int = 0,
        progress: Callable[[], object] | None = None,
    ) -> Images:
        """Draws pictures at random without replacement, and reads those and no others.

        A picture that cannot be read is listed in `skipped`, and none takes its place. Preprocessing is
        the model's own. CLIP's resizes the short side to 224 before it crops the centre; the paper (arXiv
        2503.03613) resizes it to 256.

        Args:
            preprocess: Turns a picture into pixels of the model's size.
            images: How many are drawn, at least 1; all if None or if there are fewer.
            seed: From 0. Equal seeds draw equal pictures. With fewer `images` these are the first of
                those that more would draw.
            after: How many pictures of those that are drawn first are left out.
            progress: Called after each picture.

        Raises:
            InputError: If `images` or `seed` is too small, `after` leaves no picture, or nothing that was
                drawn could be read.
        """
        if images is not None and images < 1:
            raise InputError(f"expected at least 1 image, got {images}")
        if seed < 0:
            raise InputError(f"expected a seed from 0, got {seed}")
        if not 0 <= after < len(self):
            raise InputError(
                f"{self.name}: expected to leave out fewer than {len(self)} pictures, got {after}"
            )
        drawn = np.random.default_rng(seed).permutation(len(self))[after:][:images].tolist()
        pixels = np.empty((len(drawn), 3, *preprocess.size), np.uint8)
        names: list[str] = []
        labels: list[int] = []
        skipped: list[Skipped] = []
        for index in drawn:
            name = self.pictures.name(index)
            try:
                source, label = self.pictures.read(index)
                pixels[len(names)] = _preprocessed(source, preprocess)
            except Exception as error:  # decoders of broken files may raise anything
                skipped.append(Skipped(name, str(error)))
            else:
                names.append(name)
                labels.append(label)
            if progress is not None:
                progress()
        if not names:
            raise InputError(
                f"{self.name}: none of {len(drawn)} pictures could be read; "
                f"of the first, {skipped[0].name}: {skipped[0].reason}"
            )
        return Images(
            tuple(names),
            torch.from_numpy(pixels[: len(names)]),
            torch.tensor(labels, dtype=torch.int64),
            tuple(skipped),
        )


def _preprocessed(source: ImageSource, preprocess: Preprocess) -> NDArray[np.uint8]:
    if isinstance(source, Image.Image):
        with source:  # closes the file that it may hold open, broken or not
            return preprocess(source)
    return preprocess(source)
