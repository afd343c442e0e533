"""`clipfast demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import TaskProgressColumn

from .console import ProgressBar, stdout

__all__ = ["command"]


def command(
    out: Annotated[Path, typer.Option(help="Folder for the pictures and the page.")] = Path("demo-out"),
    images: Annotated[int, typer.Option(min=8, help="How many pictures to draw.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Other seeds draw other pictures.")] = 0,
) -> None:
    """Draw pictures, attack them, and classify them without a defence and with two (bundled model)."""
    from ..demo.experiment import experiment
    from ..demo.gallery import write_gallery
    from ..demo.wording import demo_verdict, results_table

    with ProgressBar(TaskProgressColumn()) as bar:
        task = bar.add_task("attacking", total=1)
        result = experiment(out, images=images, seed=seed, progress=lambda share: bar.advance(task, share))
    stdout.print(results_table(result))
    for line in demo_verdict(result):
        stdout.print(line, highlight=False)
    page = write_gallery(result, out)
    stdout.print(f"pictures and page: {page}", soft_wrap=True, markup=False, highlight=False)
