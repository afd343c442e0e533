"""The operators' Triton form, which is in `triton_kernels`. Triton is imported when it is asked for."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch

from .registry import OPERATORS, Operator

__all__ = ["launcher", "why_not"]


@functools.cache
def why_not(device: str) -> str | None:
    """Registers the form for a kind of device, and returns why it does not run there, or None if it does.

    Args:
        device: "cpu" or "cuda", as of `torch.device.type`.
    """
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
    for operator in OPERATORS.values():
        if "triton" in operator.kernels:
            operator.register(launcher(operator), "CUDA")
    return None


def launcher(operator: Operator) -> Callable[..., Any]:
    """Returns the function that launches an operator's kernels."""
    return getattr(importlib.import_module(".triton_kernels", __package__), operator.name)
