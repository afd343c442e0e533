"""`clipfast bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from ..files import check_place, read_text
from . import options
from .console import spinner, stdout

__all__ = ["command"]


def command(
    out: Annotated[Path, typer.Option(help="File for the figures, JSON; written as they come.")] = Path(
        "bench.json"
    ),
    plot: Annotated[Path | None, typer.Option(help="File for the plot, PNG, SVG or PDF.")] = None,
    quick: Annotated[
        bool, typer.Option(help="Three scenarios in a few minutes, not all in an hour.")
    ] = False,
    exports: Annotated[
        bool, typer.Option(help="Exported files against the reference, on the CPU, and not the engine.")
    ] = False,
    show: Annotated[
        Path | None, typer.Option(help="Only print and draw the figures of this earlier run.")
    ] = None,
    device: options.Device = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of every column.")] = 2,
) -> None:
    """Measure the engine against the reference and undefended CLIP, on random weights."""
    from ..bench.cost_plot import draw_costs
    from ..bench.result_tables import result_tables
    from ..bench.run import run_benchmark, write_result

    for file in (out, plot):
        if file is not None:
            check_place(file)
    if show is not None:
        try:
            result = json.loads(read_text(show))
        except json.JSONDecodeError as error:
            raise InputError(f"expected the JSON of an earlier run in {show}: {error}") from error
    else:
        with spinner("starting") as tell:
            result = run_benchmark(
                device=options.checked_device(device),
                threads=threads,
                quick=quick,
                exports=exports,
                progress=tell,
                save=lambda result: write_result(result, out),
            )
    for table in result_tables(result):
        stdout.print(table)
    if plot is not None:
        draw_costs(result, plot)
