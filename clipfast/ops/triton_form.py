"""The operators' Triton form, in `triton_kernels`. Triton itself is imported when it is asked for."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import torch

from .schemas import LIBRARY

__all__ = ["why_not"]

_OPERATORS = ("ascend", "cotangent", "drift_gate", "perturb", "zero_shot_head")


@functools.cache
def why_not(device: str) -> str | None:
    """Registers the form for a kind of device; why it does not run there, or None where it does."""
    try:
        from triton import knobs
    except ImportError as error:
        return f"triton does not import: {error}"
    if device == "cpu":
        if knobs.runtime.interpret:
            return None
        return "no GPU; TRITON_INTERPRET=1 runs it on a CPU"
    if device != "cuda" or not torch.cuda.is_available():
        return "it runs on a GPU of CUDA, and there is none"
    for name in _OPERATORS:
        LIBRARY.impl(name, __getattr__(name), "CUDA")
    return None


def __getattr__(name: str) -> Any:
    if name not in _OPERATORS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(".triton_kernels", __package__), name)
