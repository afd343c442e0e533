"""Whether a module's weights are those of a moment ago."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

__all__ = ["Snapshot"]


class Snapshot:
    """Which tensors some modules have, where they lie and how often they were written to.

    A tensor that is replaced, moved or written to in place is noticed; one that is written to through
    `.data` alone is not. What was there is kept alive for as long as the snapshot is.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._modules = list(modules)
        self._tensors, self._children = self._tensors_now(), self._children_now()
        self._marks = _marks(self._tensors)

    def holds(self) -> bool:
        """Whether nothing has changed since."""
        tensors = self._tensors_now()
        return (
            _same(tensors, self._tensors)
            and _marks(tensors) == self._marks
            and _same(self._children_now(), self._children)
        )

    # By way of the modules' own dicts: `parameters()` walks names too, and takes ten times as long.

    def _tensors_now(self) -> list[Tensor]:
        return [
            tensor
            for module in self._modules
            for tensors in (module._parameters, module._buffers)
            for tensor in tensors.values()
            if tensor is not None
        ]

    def _children_now(self) -> list[nn.Module | None]:
        return [child for module in self._modules for child in module._modules.values()]


def _same(some: Sequence[object], others: Sequence[object]) -> bool:
    return len(some) == len(others) and all(map(operator.is_, some, others))


def _marks(tensors: list[Tensor]) -> list[int]:
    """Where each tensor lies, and its version, which tensors of inference mode do not have."""
    return [mark for t in tensors for mark in (t.data_ptr(), 0 if t.is_inference() else t._version)]
