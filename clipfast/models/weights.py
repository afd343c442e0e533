"""Whether a module's weights are those of a moment ago."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from ..torch_private import parts_of, version_of

__all__ = ["Snapshot"]


class Snapshot:
    """Which tensors some modules have, where they lie in memory, and how often they were written to.

    It notices a tensor that is replaced, moved or written to in place, but not one that is written to
    through `.data` alone. It keeps the tensors alive.

    Args:
        modules: The modules. Of each, its own parameters, buffers and children are looked at.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._modules = list(modules)
        self._tensors, self._children = self._tensors_now(), self._children_now()
        self._marks = _marks(self._tensors)

    def holds(self) -> bool:
        """Returns whether nothing has changed since the snapshot was made."""
        tensors = self._tensors_now()
        return (
            _same(tensors, self._tensors)
            and _marks(tensors) == self._marks
            and _same(self._children_now(), self._children)
        )

    def _tensors_now(self) -> list[Tensor]:
        parts = [parts_of(module) for module in self._modules]
        return [t for own, buffers, _ in parts for t in (*own.values(), *buffers.values()) if t is not None]

    def _children_now(self) -> list[nn.Module | None]:
        return [child for module in self._modules for child in parts_of(module)[2].values()]


def _same(some: Sequence[object], others: Sequence[object]) -> bool:
    return len(some) == len(others) and all(map(operator.is_, some, others))


def _marks(tensors: list[Tensor]) -> list[int]:
    """Where each tensor lies, and its version; tensors of inference mode have none."""
    return [mark for t in tensors for mark in (t.data_ptr(), 0 if t.is_inference() else version_of(t))]
