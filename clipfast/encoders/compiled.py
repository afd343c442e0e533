"""Any encoder run through torch.compile."""

from __future__ import annotations

import threading
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .base import Encoder, Saved

__all__ = ["CompiledEncoder"]


class CompiledEncoder:
    """An encoder whose methods are compiled by Inductor, one function for each batch size it meets.

    Without CUDA graphs: torch.compile's own are bound to a thread and overwrite earlier outputs. A batch
    size is compiled when it is first met, under a lock, whole (fullgraph) and for itself alone. The graph is
    bound to torch's number of threads: setting another one compiles again.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.form = encoder.form
        self.patch_size, self.blocks = encoder.patch_size, encoder.blocks
        self.dtype = encoder.dtype
        self.eager = encoder
        self._compiled: dict[tuple[Any, ...], Callable[..., Any]] = {}
        self._lock = threading.Lock()
        self.to_layout, self.from_layout = encoder.to_layout, encoder.from_layout
        self.prefers_double = encoder.prefers_double

    def project(self, x: Tensor) -> Tensor:
        """See Encoder."""
        return self._run("project", x)

    def embed(self, base: Tensor, d: Tensor | None = None) -> Tensor:
        """See Encoder."""
        return self._run("embed", base) if d is None else self._run("embed", base, d)

    def embed_until(self, base: Tensor, depth: int) -> Tensor:
        """See Encoder."""
        return self._run("embed_until", base, depth)

    def embed_from(self, tokens: Tensor, depth: int) -> Tensor:
        """See Encoder."""
        return self._run("embed_from", tokens, depth)

    def forward(self, base: Tensor, d: Tensor) -> tuple[Tensor, Saved]:
        """See Encoder."""
        return self._run("forward", base, d)

    def forward_pair(self, base: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Saved]:
        """See Encoder."""
        return self._run("forward_pair", base, d)

    def input_gradient(self, saved: Saved, cotangent: Tensor) -> Tensor:
        """See Encoder."""
        # Gathered rows and those of a double batch come in other strides, which a graph is bound to.
        saved = tuple(tensor.contiguous() for tensor in saved)
        return self._run("input_gradient", saved, cotangent.contiguous())

    def _run(self, method: str, *args: Any) -> Any:
        n = next(len(arg) for arg in args if isinstance(arg, Tensor))
        key = (method, len(args), *(arg for arg in args if isinstance(arg, int)), n)
        compiled = self._compiled.get(key)
        if compiled is not None:
            return compiled(*args)
        with self._lock:
            if key in self._compiled:  # by a call that was here first
                return self._compiled[key](*args)
            function = _own_code(getattr(self.eager, method), f"{method}_{key[-1]}")
            compiled = torch.compile(function, fullgraph=True, dynamic=False)
            result = compiled(*args)
            self._compiled[key] = compiled
        return result


def _own_code(method: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The method as a function with a code object of its own: torch.compile limits recompilations of each."""

    def call(*args: Any) -> Any:
        return method(*args)

    code = call.__code__.replace(co_name=name)
    return types.FunctionType(code, call.__globals__, name, None, call.__closure__)
