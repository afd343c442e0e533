"""Structures of tensors with the batch first: tuples that may be nested and have None in places."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["joined", "leaves", "mapped", "refilled", "selected"]

# A tensor, None, or a (named) tuple of these.
Rows = TypeVar("Rows")


def mapped(function: Callable[..., Tensor], first: Rows, *others: Rows) -> Rows:
    """Applies a function to the tensors at each place of structures that are alike.

    Args:
        function: Takes one tensor of each structure and gives one.
        first: A structure: a tensor, None, or a (named) tuple of structures.
        others: Structures of the same form.

    Returns:
        A structure of the same form, with None where the first has None.
    """
    value: Any = first
    if value is None:
        return first
    if isinstance(value, Tensor):
        return function(value, *others)  # pyright: ignore[reportReturnType]
    parts = [mapped(function, *parts) for parts in zip(value, *others, strict=True)]  # pyright: ignore[reportArgumentType]
    return tuple(parts) if type(value) is tuple else type(value)(*parts)  # pyright: ignore[reportReturnType]


def selected(structure: Rows, rows: Tensor | slice) -> Rows:
    """Returns some rows of every tensor of a structure.

    Args:
        structure: A tensor, None, or a (named) tuple of structures.
        rows: The rows' indices, int64 [M], or a slice.
    """
    if isinstance(rows, slice):
        return mapped(lambda tensor: tensor[rows], structure)
    return mapped(lambda tensor: tensor.index_select(0, rows), structure)


def joined(structures: list[Rows]) -> Rows:
    """Joins the rows of structures that are alike, one after the other."""
    return mapped(lambda *tensors: torch.cat(tensors), *structures)


def leaves(structure: Any) -> tuple[Tensor, ...]:
    """Returns the tensors of a structure, in order."""
    if structure is None:
        return ()
    if isinstance(structure, Tensor):
        return (structure,)
    return tuple(tensor for part in structure for tensor in leaves(part))


def refilled(structure: Rows, tensors: Iterator[Tensor]) -> Rows:
    """Returns the structure with other tensors in place of its own.

    Args:
        structure: A tensor, None, or a (named) tuple of structures.
        tensors: The other tensors, in the order of `leaves`.
    """
    return mapped(lambda _: next(tensors), structure)
