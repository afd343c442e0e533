"""The report's tables for a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from ..results import Results
from .sheets import Sheet, sheets

__all__ = ["tables"]


def tables(results: Results, eps: float, *, width: int = 100) -> Iterator[Table]:
    """The tables of one budget, for a terminal so wide.

    Where not all accuracies fit they come in two tables, under transfer and under adaptive attacks, without
    standard errors, the worst case in both; and the rest in a third.
    """
    whole, *rest = sheets(results, eps)
    for sheet in (*([whole] if _width(whole) <= width else _parts(whole)), *rest):
        yield _table(sheet)


def _parts(sheet: Sheet) -> Iterator[Sheet]:
    """A sheet of accuracies in parts, the notes below the last."""
    kinds = [heading.partition(": ")[0] if ": " in heading else "" for heading in sheet.headings]
    last = max((i for i, kind in enumerate(kinds) if kind), default=3)
    for name in ("transfer", "adaptive"):
        columns = [0, 1, 2, 3, *(i for i, kind in enumerate(kinds) if kind == name)]
        if len(columns) > 4:
            yield _columns(sheet, columns, f"{sheet.title}, {name} attacks", bare=True)
    rest = [0, *range(last + 1, len(sheet.headings))]
    yield _columns(sheet, rest, sheet.title.replace("accuracy", "gates and cost"), caption=sheet.caption)


def _columns(
    sheet: Sheet, columns: Sequence[int], title: str, *, bare: bool = False, caption: str = ""
) -> Sheet:
    """Some columns of a sheet; bare: without standard errors and intervals."""

    def cell(text: str) -> str:
        return re.sub(r" ± \S+| \(.*\)", "", text) if bare else text

    return Sheet(
        title,
        tuple(sheet.headings[i].partition(": ")[2] or sheet.headings[i] for i in columns),
        [tuple(cell(row[i]) if i else row[i] for i in columns) for row in sheet.rows],
        caption,
    )


def _width(sheet: Sheet) -> int:
    """What a table takes without breaking a cell; headings break at spaces."""
    words = [max(map(len, heading.split())) for heading in sheet.headings]
    cells = [max(map(len, column), default=0) for column in zip(*sheet.rows, strict=True)]
    return sum(max(pair) + 2 for pair in zip(words, cells, strict=True))


def _table(sheet: Sheet) -> Table:
    table = Table(
        title=Text(sheet.title),
        caption=Text(sheet.caption) if sheet.caption else None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for index, heading in enumerate(sheet.headings):
        table.add_column(Text(heading), justify="right" if index else "left")
    for row in sheet.rows:
        table.add_row(*map(Text, row))
    return table
