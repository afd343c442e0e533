"""Unfinished training on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from clipfast.files import written_aside


def save_state(file: Path, state: dict[str, Any]) -> None:
    """Replaces the file whole, so that an interruption leaves the old one."""
    with written_aside(file) as whole:
        torch.save(state, whole)


def load_state(file: Path, device: torch.device) -> dict[str, Any] | None:
    """What `save_state` wrote, or None."""
    return torch.load(file, map_location=device, weights_only=True) if file.exists() else None
