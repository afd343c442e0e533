"""CIFAR-10's pictures in memory, and the crops of them that training sees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from clipfast import InputError
from clipfast.evaluation.datasets import find_dataset
from clipfast.preprocess import Preprocess

from . import recipe

__all__ = ["Pictures", "epoch_order", "read", "varied"]


class Pictures(NamedTuple):
    """Pixels uint8 [N, 3, S, S] and labels int64 [N], indices into recipe.CLASSNAMES."""

    pixels: Tensor
    labels: Tensor


def read(
    root: Path,
    split: str,
    *,
    images: int | None = None,
    after: int = 0,
    download: bool = False,
    progress: Callable[[], object] | None = None,
) -> Pictures:
    """A split of CIFAR-10 in the order in which `clipfast eval` draws it with the seed 0.

    root: see `find_dataset`. images: how many, all with None; after: so many are left out before. progress:
    called after each picture. Raises InputError where a picture cannot be read, and for other class names.
    """
    dataset = find_dataset("cifar10", root=root, split=split, download=download)
    if dataset.classnames != recipe.CLASSNAMES:
        raise InputError(f"expected classes {recipe.CLASSNAMES}, got {dataset.classnames}")
    size = (recipe.IMAGE_SIZE, recipe.IMAGE_SIZE)
    taken = dataset.take(Preprocess(size=size), images, after=after, progress=progress)
    if taken.skipped:
        raise InputError(f"cannot read {taken.skipped[0].name}: {taken.skipped[0].reason}")
    return Pictures(taken.pixels, taken.labels)


def epoch_order(n: int, seed: tuple[int, int]) -> Tensor:
    """The order of an epoch, int64 [n]. seed: of the purpose, and the epoch's number."""
    return torch.randperm(n, generator=_generator(seed))


def varied(pixels: Tensor, seed: tuple[int, int]) -> Tensor:
    """Random crops of pictures with mirrored borders, half of them mirrored.

    pixels: uint8 [N, 3, S, S]. seed: of the purpose, and the step's number. Float32 [N, 3, S, S] in [0, 1].
    """
    generator, pad, size = _generator(seed), recipe.PADDING, pixels.shape[-1]
    padded = F.pad(pixels.float() / 255, [pad] * 4, mode="reflect")
    top, left = torch.randint(2 * pad + 1, (2, len(pixels)), generator=generator)
    mirrored = torch.rand(len(pixels), generator=generator) < 0.5
    ahead = torch.arange(size)
    rows = top[:, None] + ahead
    columns = left[:, None] + torch.where(mirrored[:, None], ahead.flip(0), ahead)
    places = rows[:, None, :, None], columns[:, None, None, :]
    each, channels = torch.arange(len(pixels))[:, None, None, None], torch.arange(3)[None, :, None, None]
    return padded[each, channels, *places]


def _generator(seed: tuple[int, int]) -> torch.Generator:
    purpose, number = seed
    return torch.Generator().manual_seed(purpose * 2**32 + number)
