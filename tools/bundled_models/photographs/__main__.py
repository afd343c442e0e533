"""`python -m bundled_models.photographs --root FOLDER`: every stage from scratch, in order; resumable.

A stage whose output exists is skipped. Delete an output (below clipfast/models/bundled/photographs, the
teacher's below the runs folder) to make it and those after it again.
"""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.progress import Progress
from torch import Tensor

from clipfast.models.bundled import BUNDLED_DIR

from ..calibrate import calibrate
from ..finetune import finetune
from ..stages import Stage, run_stages
from . import recipe
from .pictures import Pictures, epoch_order, read, varied
from .report import report
from .teacher import train_teacher
from .train import train

OUT = BUNDLED_DIR / "photographs"


def main(
    root: Annotated[Path, typer.Option(help="Folder of CIFAR-10: torchvision's, or class folders.")],
    download: Annotated[
        bool, typer.Option("--download", help="Let torchvision download it to --root.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Where the finished files go.")] = OUT,
    run: Annotated[Path, typer.Option(help="Where unfinished state is kept.")] = Path("runs/photographs"),
    seed: Annotated[int, typer.Option(min=0, help="Other seeds give other weights.")] = 0,
    device: Annotated[str, typer.Option()] = "cuda" if torch.cuda.is_available() else "cpu",
) -> None:
    """Trains the teacher and the model, calibrates, fine-tunes the twin, and measures."""
    on = torch.device(device)
    reading = partial(read, root, download=download)

    @cache
    def training() -> Pictures:
        with Progress() as progress:
            task = progress.add_task("reading the training split", total=None)
            return reading("train", progress=lambda: progress.advance(task))

    def held_out() -> Pictures:
        return reading("test", after=recipe.CALIBRATION_AFTER, images=recipe.CALIBRATION_PICTURES)

    def test() -> Pictures:
        return reading("test")

    def finetuned() -> None:
        pictures, purpose = training(), seed + recipe.SEED_FINETUNE
        each = len(pictures.labels) // recipe.FINETUNE_BATCH

        def batch(step: int) -> tuple[Tensor, Tensor]:
            order = epoch_order(len(pictures.labels), (purpose, step // each))
            rows = order[step % each * recipe.FINETUNE_BATCH :][: recipe.FINETUNE_BATCH]
            x = varied(pictures.pixels[rows], (purpose, step))
            return (x * 255).round().to(torch.uint8), pictures.labels[rows]

        finetune(tuned, out, batch, recipe.TRAINING_TEMPLATES[0], recipe.FINETUNING, on)

    teacher, learning = run / "teacher.pt", run / "teacher-unfinished.pt"
    trained, tuned = run / "train.pt", run / "finetune.pt"
    run_stages(
        {
            teacher: Stage(
                lambda: train_teacher(learning, teacher, training(), held_out(), on, seed), learning
            ),
            out / "open_clip_model.safetensors": Stage(
                lambda: train(trained, teacher, out, training(), held_out(), on, seed), trained
            ),
            out / "published.json": Stage(
                lambda: calibrate(out, *held_out(), on, most_clean_loss=recipe.MOST_CLEAN_LOSS)
            ),
            out / "tecoa.pt": Stage(finetuned, tuned),
            out / "report.json": Stage(lambda: report(out, test(), on)),
        }
    )


typer.run(main)
