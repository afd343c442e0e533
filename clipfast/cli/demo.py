"""`clipfast demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import TaskProgressColumn

from ..errors import InputError
from . import options
from .console import ProgressBar, stdout

__all__ = ["command"]


def command(
    images: Annotated[
        Path | None, typer.Option(help="Folder of your own pictures. Default: pictures are drawn.")
    ] = None,
    classnames: options.Classnames = None,
    model: options.ModelName = None,
    pretrained: options.Pretrained = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Fine-tuned image tower of the model, to compare with.")
    ] = None,
    number: Annotated[
        int, typer.Option("--number", "-n", min=1, help="How many are drawn, or of the folder taken.")
    ] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Other seeds draw other pictures.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the pictures and the page.")] = Path("demo-out"),
) -> None:
    """Attack pictures, and classify them without a defence and with two. Draws the pictures, or takes yours.

    clipfast demo --images holidays --classnames cat,dog,beach --model ViT-B-32-quickgelu --pretrained openai
    """
    from ..demo.experiment import experiment
    from ..demo.gallery import write_gallery
    from ..demo.subject import ModelChoice, drawn_subject, folder_subject
    from ..demo.wording import demo_verdict, results_table

    if images is None:
        of_folders = {"--classnames": classnames, "--model": model, "--pretrained": pretrained}
        for option, value in (of_folders | {"--checkpoint": checkpoint}).items():
            if value is not None:
                raise InputError(f"{option} {value} needs --images, a folder of pictures")
        subject = drawn_subject(number, seed)
    else:
        names = None if classnames is None else options.listed_classnames(classnames)
        choice = ModelChoice(options.named_model(model, pretrained), pretrained, checkpoint)
        subject = folder_subject(images, choice, names, images=number, seed=seed)
    with ProgressBar(TaskProgressColumn()) as bar:
        task = bar.add_task("attacking", total=1)
        result = experiment(subject, out, seed=seed, progress=lambda share: bar.advance(task, share))
    stdout.print(results_table(result))
    for line in demo_verdict(result):
        stdout.print(line, highlight=False)
    page = write_gallery(result, out)
    stdout.print(f"pictures and page: {page}", soft_wrap=True, markup=False, highlight=False)
