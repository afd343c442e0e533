"""`python -m bundled_models.drawn`: every stage from scratch, in order; one whose output exists is skipped.

Delete a stage's output (below clipfast/models/bundled/drawn) to run it and those after it again; unfinished
training resumes from the runs folder.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from clipfast.models.bundled import bundled_folder

from ..calibrate import calibrate
from ..finetune import finetune
from ..stages import Stage, run_stages
from . import recipe
from .pictures import drawn
from .report import report
from .train import train

OUT = bundled_folder("drawn")


def main(
    out: Annotated[Path, typer.Option(help="Where the finished files go.")] = OUT,
    run: Annotated[Path, typer.Option(help="Where unfinished state is kept.")] = Path("runs/drawn"),
    device: Annotated[str, typer.Option()] = "cuda" if torch.cuda.is_available() else "cpu",
) -> None:
    """Trains, calibrates, fine-tunes the twin, and measures."""
    on = torch.device(device)

    def calibrated() -> None:
        pixels, labels = drawn(recipe.CALIBRATION_PICTURES, recipe.SEED_CALIBRATE, unseen_pairs=True)
        calibrate(out, pixels, labels, on, most_clean_loss=recipe.MOST_CLEAN_LOSS)

    def finetuned() -> None:
        def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
            return drawn(recipe.BATCH, (recipe.SEED_FINETUNE, step))

        template = recipe.TRAINING_TEMPLATES[0]
        finetune(tuned, out, batch, template, recipe.FINETUNING, on)

    trained, tuned = run / "train.pt", run / "finetune.pt"
    run_stages(
        {
            out / "open_clip_model.safetensors": Stage(partial(train, trained, out, on), trained),
            out / "published.json": Stage(calibrated),
            out / "tecoa.pt": Stage(finetuned, tuned),
            out / "report.json": Stage(partial(report, out, on)),
        }
    )


typer.run(main)
