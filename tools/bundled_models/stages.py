"""A model's stages from scratch, in order; a stage whose output exists is skipped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

__all__ = ["Stage", "run_stages"]


class Stage(NamedTuple):
    """make: writes what the stage is for. state: what an unfinished one leaves."""

    make: Callable[[], None]
    state: Path | None = None


def run_stages(stages: Mapping[Path, Stage]) -> None:
    """Makes the first output that is missing, and all that comes after it anew."""
    redo = False
    for product, stage in stages.items():
        product.parent.mkdir(parents=True, exist_ok=True)
        if redo and stage.state is not None:
            stage.state.unlink(missing_ok=True)  # it belongs to what was made anew before it
        if redo or not product.exists():
            redo = True
            if stage.state is not None:
                stage.state.parent.mkdir(parents=True, exist_ok=True)
            stage.make()
