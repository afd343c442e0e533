"""`clipfast demo`: CLIP classifies pictures, falls to an attack, and recovers."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

__all__ = ["run"]


def run(out: Path, *, images: int, seed: int, console: Console) -> None:
    """Writes out/clean/*.png, out/attacked/*.png and out/index.html, and prints a table and a verdict.

    Raises InputError where `out` is not a folder that can be written.
    """
    from .experiment import experiment
    from .page import write_page
    from .summary import results_table, verdict

    result = experiment(out, images=images, seed=seed, console=console)
    console.print(results_table(result))
    for line in verdict(result):
        console.print(line, highlight=False)
    page = write_page(result, out)
    console.print(f"pictures and page: {page}", soft_wrap=True, markup=False, highlight=False)
