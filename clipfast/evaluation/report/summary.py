"""What is printed of an evaluation: one data set's tables and verdicts, or many data sets side by side."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ...files import write_text
from ..levels import level
from ..results import CLEAN, Results
from .figures import attacks, figures
from .tables import tables
from .words import failed_controls, limits, quotation, verdicts

__all__ = ["summaries", "write_summary"]


def summaries(results: Mapping[str, Results], *, width: int = 100) -> Iterator[RenderableType]:
    """For a terminal so wide. results: of data sets, by name, of the same defences and attacks."""
    if len(results) > 1:
        for eps in next(iter(results.values())).eps:
            yield _side_by_side(results, eps)
        yield Text(limits())
        return
    for found in results.values():
        for eps in found.eps:
            yield from tables(found, eps, width=width)
            yield Text("\n".join(verdicts(found, eps)))
        if (failed := failed_controls(found)) is not None:
            yield Text(failed, style="bold red")
        yield Text(f"{limits()}\n{quotation(found)}")


def write_summary(results: Mapping[str, Results], path: Path) -> None:
    """Writes the data sets side by side as CSV, shares in [0, 1]: one row a budget, system and column.

    Raises InputError where the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["eps", "system", "column", *results, "average"])
    for eps in next(iter(results.values())).eps:
        for system, columns in _shares(results, eps).items():
            for column, shares in columns.items():
                writer.writerow([level(eps), system, column, *shares, sum(shares) / len(shares)])
    write_text(path, text.getvalue())


def _side_by_side(results: Mapping[str, Results], eps: float) -> Table:
    """Clean, first transfer attack and worst case of each system on each data set, and their averages."""
    table = Table(title=f"percent right, l-inf {level(eps)}")
    for heading in ("system", "", *results, "average"):
        table.add_column(Text(heading), justify="left" if heading in ("system", "") else "right")
    for system, columns in _shares(results, eps).items():
        for i, (column, shares) in enumerate(columns.items()):
            cells = [f"{100 * share:.1f}" for share in (*shares, sum(shares) / len(shares))]
            table.add_row(Text("" if i else system), Text(column), *cells)
    return table


def _shares(results: Mapping[str, Results], eps: float) -> dict[str, dict[str, list[float]]]:
    """system -> column -> its share right on each data set."""
    first = next(iter(results.values()))
    shown = [CLEAN, *attacks(first, eps, "transfer")[:1]]
    rows = {found_name: figures(found, eps) for found_name, found in results.items()}
    shares: dict[str, dict[str, list[float]]] = {}
    for i, system in enumerate(first.systems):
        of_system = [of_data[i] for of_data in rows.values()]
        shares[system.name] = {
            column.title: [row.accuracy[column.key].mean for row in of_system] for column in shown
        }
        worst = [row.worst.mean for row in of_system if row.worst is not None]
        if len(worst) == len(of_system):
            shares[system.name]["worst case"] = worst
    return shares
