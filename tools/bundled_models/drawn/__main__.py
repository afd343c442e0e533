"""`python -m bundled_model`: every stage from scratch, in order; a stage whose output exists is skipped.

Delete a stage's output (below clipfast/models/bundled) to run it and those after it again; unfinished
training resumes from the runs folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from clipfast.models.bundled import BUNDLED_DIR

from .calibrate import calibrate
from .finetune import finetune
from .report import report
from .train import train

STAGES = {
    "open_clip_model.safetensors": (train, "train.pt"),
    "published.json": (calibrate, None),
    "tecoa.pt": (finetune, "finetune.pt"),
    "report.json": (report, None),
}


def main(
    out: Annotated[Path, typer.Option(help="Where the finished files go.")] = BUNDLED_DIR,
    run: Annotated[Path, typer.Option(help="Where unfinished state is kept.")] = Path("runs/bundled"),
    device: Annotated[str, typer.Option()] = "cuda" if torch.cuda.is_available() else "cpu",
) -> None:
    """Trains, calibrates, fine-tunes the twin, and measures."""
    out.mkdir(parents=True, exist_ok=True)
    run.mkdir(parents=True, exist_ok=True)
    redo = False
    for product, (stage, state) in STAGES.items():
        if redo and state is not None:
            (run / state).unlink(missing_ok=True)  # it belongs to what was made anew before it
        if redo or not (out / product).exists():
            redo = True
            stage(run, out, torch.device(device))


typer.run(main)
