"""The report as JSON and CSV."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from ...attacks.levels import level
from ...files import write_text
from ...measurement.statistics import Share
from ..results import CLEAN, Column, Results
from .figures import Figures, columns, figures

__all__ = ["write_csv", "write_json"]

_QUOTED = ("model", "pretrained", "weights_sha256", "data", "images", "seed", "seeds", "budget")


def write_json(results: Results, path: Path) -> None:
    """Writes results as JSON, which `Results.from_json` reads.

    Args:
        results: What an evaluation found.
        path: The file to write.

    Raises:
        InputError: If the file cannot be written.
    """
    write_text(path, results.to_json())


def write_csv(results: Results, path: Path) -> None:
    """Writes results as CSV, one row for each budget and system.

    A row is what it is quoted with, then its figures, shares in [0, 1]. A cell is empty if there is no
    figure.

    Args:
        results: What an evaluation found.
        path: The file to write.

    Raises:
        InputError: If the file cannot be written.
    """
    rows = [
        {**{name: results.run.get(name) for name in _QUOTED}, **_cells(results, row, eps)}
        for eps in results.eps
        for row in figures(results, eps)
    ]
    headings = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, headings, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _cells(results: Results, row: Figures, eps: float) -> dict[str, Any]:
    system, passes = row.system, row.system.passes.get(CLEAN.key)
    cells: dict[str, Any] = {"eps": level(eps), "system": system.name}
    for column in columns(results, eps):
        name = column.key.split("@")[0]
        cells |= _share(name, row.accuracy.get(column.key))
        if column.kind == "adaptive":
            cells[f"{name} upper bound"] = _bound(row, column)
    cells |= _share("worst case", row.worst)
    cells["worst case upper bound"] = None if row.worst is None else row.upper_bound
    cells["minus undefended"] = None if row.gain is None else row.gain.mean
    cells["minus undefended standard error"] = None if row.gain is None else row.gain.standard_error
    cells["minus undefended low"] = None if row.gain is None else row.gain.interval.low
    cells["minus undefended high"] = None if row.gain is None else row.gain.interval.high
    return cells | {
        "clean countered": row.clean_countered,
        "attacked passed": row.attacked_passed,
        "images a second": system.images_per_second,
        "cost": system.cost,
        "forward passes": None if passes is None else passes.forward,
        "backward passes": None if passes is None else passes.backward,
    }


def _share(name: str, share: Share | None) -> dict[str, float | None]:
    mean, error = (None, None) if share is None else (share.mean, share.standard_error)
    return {name: mean, f"{name} standard error": error}


def _bound(row: Figures, column: Column) -> bool | None:
    return column.upper_bound if column.key in row.accuracy else None
