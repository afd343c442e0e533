"""Loads exported files to be compared."""

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
    """Loads an exported file, to run on a device if its format lets that be chosen.

    Args:
        path: The exported file.
        device: The device. Used only for formats that are programs.
        runtime: See `clipfast.runtime.load_artifact`.
        trust: See `clipfast.runtime.load_artifact`.
        **options: See `clipfast.runtime.load_artifact`.

    Returns:
        The session that has loaded the file.

    Raises:
        ArtifactError: If the file's name ends in no format's suffix, or the file cannot be loaded; see
            `clipfast.runtime.load_artifact`.
        InputError: If the runtime does not run such files, or an option is not valid.
        ModuleNotFoundError: If the runtime's package is not installed. The message names the extra.
    """
    format = format_of(path)
    if format.is_program:
        options["device"] = device
    return format.load(Path(path), runtime=runtime, trust=trust, **options)
