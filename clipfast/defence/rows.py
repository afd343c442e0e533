"""Tensors with the batch first, in tuples that may be nested and have gaps, taken as one thing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["joined", "leaves", "mapped", "refilled", "selected"]

# Tensors, None, and (named) tuples of them.
Rows = TypeVar("Rows")


def mapped(function: Callable[..., Tensor], first: Rows, *others: Rows) -> Rows:
    """What a function makes of the tensors at each place of structures that are alike."""
    value: Any = first
    if value is None:
        return first
    if isinstance(value, Tensor):
        return function(value, *others)  # pyright: ignore[reportReturnType]
    parts = [mapped(function, *parts) for parts in zip(value, *others, strict=True)]  # pyright: ignore[reportArgumentType]
    return tuple(parts) if type(value) is tuple else type(value)(*parts)  # pyright: ignore[reportReturnType]


def selected(structure: Rows, rows: Tensor | slice) -> Rows:
    """Some rows of every tensor: int64 [M], or a slice."""
    if isinstance(rows, slice):
        return mapped(lambda tensor: tensor[rows], structure)
    return mapped(lambda tensor: tensor.index_select(0, rows), structure)


def joined(structures: list[Rows]) -> Rows:
    """The rows of structures that are alike, one after the other."""
    return mapped(lambda *tensors: torch.cat(tensors), *structures)


def leaves(structure: Any) -> tuple[Tensor, ...]:
    """The tensors in order."""
    if structure is None:
        return ()
    if isinstance(structure, Tensor):
        return (structure,)
    return tuple(tensor for part in structure for tensor in leaves(part))


def refilled(structure: Rows, tensors: Iterator[Tensor]) -> Rows:
    """The structure with other tensors in the places of its own, in order."""
    return mapped(lambda _: next(tensors), structure)
