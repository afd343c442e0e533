"""Exported files, loaded to be compared."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from ..artifacts.formats import format_of
from ..artifacts.sessions.session import Session

__all__ = ["load_on_device"]


def load_on_device(
    path: str | os.PathLike[str],
    device: str | torch.device,
    *,
    runtime: str = "auto",
    trust: bool = False,
    **options: Any,
) -> Session:
    """Loads an exported file, to run on this device where its format lets that be chosen.

    runtime, trust, options, errors: see `clipfast.runtime.load_artifact`.
    """
    format = format_of(path)
    if format.is_program:
        options["device"] = device
    return format.load(Path(path), runtime=runtime, trust=trust, **options)
