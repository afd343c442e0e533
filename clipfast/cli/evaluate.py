"""`clipfast eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import TaskID, TaskProgressColumn

from ..evaluation import BudgetName
from . import options
from .console import ProgressBar, stdout

__all__ = ["command"]


def command(
    data: Annotated[
        str,
        typer.Option(
            help="A data set by name, a folder of class folders, or paper for the sixteen of the paper."
        ),
    ] = "drawn",
    root: Annotated[Path | None, typer.Option(help="Folder that the named data sets lie in.")] = None,
    split: Annotated[str | None, typer.Option(help="Default: the one that the paper evaluates.")] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Let torchvision download to --root what is missing.")
    ] = False,
    model: options.ModelName = None,
    pretrained: options.Pretrained = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Fine-tuned image tower, for the defences twin and ttc-twin.")
    ] = None,
    config: options.ConfigFile = None,
    attacks: Annotated[
        str | None,
        typer.Option(
            help="Names a,b,c. Default: the budget's; quick leaves out targeted, apgd-eot, black-box."
        ),
    ] = None,
    defences: Annotated[
        str | None, typer.Option(help="Names a,b,c; the twin's need --checkpoint. Default: all.")
    ] = None,
    eps: Annotated[str, typer.Option(help="l-inf budgets of the attacks: 1/255,4/255.")] = "1/255",
    budget: Annotated[BudgetName, typer.Option(help="quick gives upper bounds.")] = "quick",
    images: Annotated[
        int | None, typer.Option(min=1, help="How many are drawn. Default: the budget's.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Rounds of noise that a defence answers in.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of pictures, attacks and noise.")] = 0,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the report; resumed if it is there.")
    ] = Path("eval-out"),
    shard: Annotated[str | None, typer.Option(help="i/n: make every n-th chunk's parts, no report.")] = None,
    parts_from: Annotated[
        list[Path] | None, typer.Option("--from", help="Take over the parts of this folder, of a shard.")
    ] = None,
    chunk: Annotated[int, typer.Option(min=1, help="Images attacked at a time.")] = 50,
    device: options.AnyDevice = "auto",
) -> None:
    """Measure defences: clean, under transfer attacks, and under attackers who know them. Resumable."""
    from ..attacks.levels import parse_level
    from ..evaluation.evaluate import EvaluationRequest, evaluate_request
    from ..evaluation.report import summaries
    from ..evaluation.runner import parse_shard

    request = EvaluationRequest(
        data=data,
        out=out,
        root=root,
        split=split,
        download=download,
        model=options.named_model(model, pretrained),
        pretrained=pretrained,
        checkpoint=checkpoint,
        config=None if config is None else options.read_config(config),
        attacks=_listed_names(attacks),
        defences=_listed_names(defences),
        eps=[parse_level(text) for text in eps.split(",")],
        budget=budget,
        images=images,
        seed=seed,
        seeds=seeds,
        device=options.checked_device(device),
        chunk=chunk,
        shard=None if shard is None else parse_shard(shard),
        parts_from=parts_from or [],
    )
    with ProgressBar(TaskProgressColumn()) as bar:
        results = evaluate_request(request, _Stretches(bar))
    if results is None:
        stdout.print(
            f"parts in {escape(str(out))}; gather them with --from {escape(str(out))}", soft_wrap=True
        )
        return
    for printed in summaries(results, width=stdout.width):
        stdout.print(printed)
    stdout.print(f"report: {escape(str(out))}", highlight=False, soft_wrap=True)


class _Stretches:
    """Shows an evaluation's stretches of work, one bar after another."""

    def __init__(self, bar: ProgressBar) -> None:
        self._bar = bar
        self._task: TaskID | None = None

    def start(self, description: str, total: float) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(description, total=total)

    def advance(self, done: float) -> None:
        assert self._task is not None
        self._bar.advance(self._task, done)


def _listed_names(value: str | None) -> list[str] | None:
    return None if value is None else [name.strip() for name in value.split(",") if name.strip()]
