"""Exports a defended classifier, or its image tower alone, as ONNX, TorchScript or AOTInductor.

A defended classifier is exported as one file that holds `clipfast.defence.schedule.defend` and its
zero-shot head: drift, gate, gradient steps and all.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ..errors import names_extra

if TYPE_CHECKING:
    from ..verification.outcome import Verification
    from ..verification.verifying import verify
    from .exporting import Export, export
    from .exporting_encoder import EncoderExport, export_encoder

__all__ = ["EncoderExport", "Export", "Verification", "export", "export_encoder", "verify"]

# Each name is imported when it is first used, because readers of exported files may have no torch.
_ON_DEMAND = {
    "EncoderExport": ".exporting_encoder",
    "Export": ".exporting",
    "Verification": "..verification.outcome",
    "export": ".exporting",
    "export_encoder": ".exporting_encoder",
    "verify": "..verification.verifying",
}


def __getattr__(name: str) -> Any:
    if name not in _ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_ON_DEMAND[name], __name__), name)
    except ModuleNotFoundError as error:
        raise names_extra(f"{__name__}.{name}", error) from error
