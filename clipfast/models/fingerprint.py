"""A name for weights: the same tensors have the same fingerprint, wherever they came from."""

from __future__ import annotations

import hashlib
import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..torch_private import version_of

__all__ = ["fingerprint"]


class _Seen(NamedTuple):
    """What tells whether a tensor has changed, without its values.

    It is the storage itself, as addresses are reused, and a version, which each change in place raises.
    """

    storage: weakref.ref[torch.UntypedStorage]
    version: int
    layout: tuple[Any, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> _Seen:
        layout = (tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset())
        return cls(weakref.ref(tensor.untyped_storage()), version_of(tensor), layout)

    def is_of(self, tensor: Tensor) -> bool:
        seen = _Seen.of(tensor)
        return self.storage() is seen.storage() and self[1:] == seen[1:]


_known: weakref.WeakKeyDictionary[nn.Module, tuple[dict[str, _Seen], str]] = weakref.WeakKeyDictionary()


def fingerprint(module: nn.Module) -> str:
    """Returns the SHA-256 of a module's state dict (names, shapes and values), in hex.

    Floating-point values count as float32. The result is kept as long as the module lives and its tensors
    are neither replaced nor changed in place. A change in place through `.data` goes unnoticed.
    """
    state: dict[str, Tensor] = module.state_dict()
    if any(tensor.is_inference() for tensor in state.values()):  # these have no version
        return _digest(state)
    seen, name = _known.get(module, ({}, ""))
    if seen.keys() != state.keys() or not all(seen[key].is_of(tensor) for key, tensor in state.items()):
        name = _digest(state)
        _known[module] = {key: _Seen.of(tensor) for key, tensor in state.items()}, name
    return name


def _digest(state: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        values = tensor.detach().to("cpu", torch.float32 if tensor.is_floating_point() else tensor.dtype)
        digest.update(f"{name}{tuple(values.shape)}".encode())
        digest.update(values.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
