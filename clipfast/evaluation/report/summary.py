"""What is printed of an evaluation: tables and verdicts of one data set, or several side by side."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ...attacks.levels import level
from ...files import write_text
from ..results import CLEAN, Results
from .figures import attacks, figures
from .tables import tables
from .words import failed_controls, limits, quotation, verdicts

__all__ = ["summaries", "write_summary"]

_AVERAGE, _WORST = "average", "worst case"
_QUOTED = ("model", "pretrained", "budget", "seed")


def summaries(results: Mapping[str, Results], *, width: int = 100) -> Iterator[RenderableType]:
    """Yields what a terminal prints of an evaluation.

    Args:
        results: The results of data sets, by name, of the same defences and attacks.
        width: How many columns the terminal has.
    """
    if len(results) > 1:
        for eps in next(iter(results.values())).eps:
            yield from _side_by_side(results, eps)
        for name, found in results.items():
            if (failed := failed_controls(found)) is not None:
                yield Text(f"{name}: {failed}", style="bold red")
        yield Text("\n".join([limits(), *(quotation(found) for found in results.values())]))
        return
    for found in results.values():
        for eps in found.eps:
            yield from tables(found, eps, width=width)
            yield Text("\n".join(verdicts(found, eps)))
        if (failed := failed_controls(found)) is not None:
            yield Text(failed, style="bold red")
        yield Text(f"{limits()}\n{quotation(found)}")


def write_summary(results: Mapping[str, Results], path: Path) -> None:
    """Writes data sets side by side as CSV: one row a budget, system and column; shares in [0, 1].

    Args:
        results: The results of data sets, by name, of the same defences and attacks; at least one.
        path: The file to write.

    Raises:
        InputError: If the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    first = next(iter(results.values()))
    quoted = [first.run.get(name) for name in _QUOTED]
    writer.writerow([*_QUOTED, "eps", "system", "column", *results, _AVERAGE])
    for eps in first.eps:
        for system, columns in _shares(results, eps).items():
            for column, shares in columns.items():
                writer.writerow([*quoted, level(eps), system, column, *shares, _at(shares, len(shares))])
    write_text(path, text.getvalue())


def _side_by_side(results: Mapping[str, Results], eps: float) -> Iterator[Table]:
    """Yields tables with a row a data set, and their average.

    The first has each system under the first transfer attack and clean, as the papers print it. The
    second has the worst case.
    """
    shares = _shares(results, eps)
    shown = list(dict.fromkeys(column for columns in shares.values() for column in columns))
    worst = [column for column in shown if column.startswith(_WORST)]
    for wanted in ([*(column for column in shown[1:2] if column not in worst), *shown[:1]], worst[:1]):
        systems = {name: columns for name, columns in shares.items() if {*wanted} <= {*columns}}
        if not wanted or not systems:
            continue
        table = Table(title=f"percent right, {' / '.join(wanted)}, l-inf {level(eps)}")
        for heading in ("data", *systems):
            table.add_column(Text(heading), justify="left" if heading == "data" else "right")
        for i, name in enumerate((*results, _AVERAGE)):
            cells = []
            for columns in systems.values():
                each = [columns[column] for column in wanted]
                cells.append(" / ".join(f"{100 * _at(of_data, i):.1f}" for of_data in each))
            table.add_row(Text(name), *cells, end_section=i + 1 == len(results))
        yield table


def _at(shares: list[float], i: int) -> float:
    """Returns the i-th share, or the average behind the last."""
    return shares[i] if i < len(shares) else sum(shares) / len(shares)


def _shares(results: Mapping[str, Results], eps: float) -> dict[str, dict[str, list[float]]]:
    """Maps systems to columns to the shares that are right on each data set."""
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
        if attacks(first, eps, "adaptive") and len(worst) == len(of_system):
            bound = any(row.upper_bound for row in of_system)
            shares[system.name][f"{_WORST}, upper bound" if bound else _WORST] = worst
    return shares
