"""The operators' C++ form: a library that is built at installation if there is a compiler."""

from __future__ import annotations

import functools
from pathlib import Path

import torch

__all__ = ["why_not"]

_LIBRARY = Path(__file__).with_name("_native.so")


@functools.cache
def why_not() -> str | None:
    """Loads the library, and returns why that is not possible, or None if it was."""
    if not _LIBRARY.exists():
        return "clipfast was installed without a C++ compiler"
    try:
        torch.ops.load_library(_LIBRARY)
    except OSError as error:
        return f"{_LIBRARY.name} does not load: {error.__cause__ or error}"
    return None
