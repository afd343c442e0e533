"""A defended classifier as one file: ONNX, TorchScript or AOTInductor.

What is exported is `clipfast.schedule.defend` with its zero-shot head: drift, gate, gradient steps and all.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ..errors import names_extra

if TYPE_CHECKING:
    from .exporting import export

__all__ = ["export"]


def __getattr__(name: str) -> Any:
    """`export` is imported when it is first asked for: readers of artifacts have no torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(".exporting", __name__), name)
    except ModuleNotFoundError as error:
        raise names_extra(f"{__name__}.{name}", error) from error
