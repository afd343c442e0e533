"""The report's tables for a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from textwrap import wrap

from rich import box
from rich.table import Table
from rich.text import Text

from ..results import Results
from .sheets import Sheet, sheets

__all__ = ["tables"]


def tables(results: Results, eps: float, *, width: int = 100) -> Iterator[Table]:
    """Yields the tables of one budget.

    If not all accuracies fit, they come in a table for each group of attacks, without standard errors but
    with the worst case. The remaining columns come in a last one. A table that is too wide even so goes
    on in a further one.

    Args:
        results: What an evaluation found.
        eps: The l-inf budget, in [0, 1] pixel units.
        width: How many columns the terminal has.
    """
    whole, *rest = sheets(results, eps)
    if _width(whole) <= width:
        yield _table(whole)
    else:
        for part, fixed in _parts(whole):
            yield from map(_table, _pages(part, fixed, width))
    for sheet in rest:
        yield from map(_table, _pages(sheet, 1, width))


def _parts(sheet: Sheet) -> Iterator[tuple[Sheet, int]]:
    """Yields a sheet of accuracies in parts, and how many columns name a row in each.

    The notes stand below the last part.
    """
    kinds = [heading.partition(": ")[0] if ": " in heading else "" for heading in sheet.headings]
    last = max((i for i, kind in enumerate(kinds) if kind), default=3)
    for name in dict.fromkeys(filter(None, kinds)):
        columns = [0, 1, 2, 3, *(i for i, kind in enumerate(kinds) if kind == name)]
        kind, comma, labels = name.partition(", ")
        yield _columns(sheet, columns, f"{sheet.title}, {kind} attacks{comma}{labels}", bare=True), 4
    rest = [0, *range(last + 1, len(sheet.headings))]
    yield _columns(sheet, rest, sheet.title.replace("accuracy", "gates and cost"), caption=sheet.caption), 1


def _pages(sheet: Sheet, fixed: int, width: int) -> Iterator[Sheet]:
    """Yields as many columns at a time as fit, at least one, behind the first `fixed`.

    The notes stand below the last page.
    """
    naming, page = [*range(fixed)], []
    for column in range(fixed, len(sheet.headings)):
        if page and _width(_columns(sheet, [*naming, *page, column])) > width:
            yield _columns(sheet, naming + page)
            page = []
        page.append(column)
    yield _columns(sheet, naming + page, caption=sheet.caption)


def _columns(
    sheet: Sheet, columns: Sequence[int], title: str | None = None, *, bare: bool = False, caption: str = ""
) -> Sheet:
    """Returns some columns of a sheet.

    title: the sheet's own if None. bare: without standard errors and intervals.
    """

    def cell(text: str) -> str:
        return re.sub(r" ± \S+| \(.*\)", "", text) if bare else text

    return Sheet(
        sheet.title if title is None else title,
        tuple(sheet.headings[i].partition(": ")[2] or sheet.headings[i] for i in columns),
        [tuple(cell(row[i]) if i else row[i] for i in columns) for row in sheet.rows],
        caption,
    )


def _width(sheet: Sheet) -> int:
    """Returns what a table takes, with the spaces between columns and at its sides."""
    return 1 + sum(width + 2 for width in _widths(sheet))


def _widths(sheet: Sheet) -> list[int]:
    """Returns what each column takes without breaking a cell; headings break at spaces."""
    words = [max(map(len, heading.split())) for heading in sheet.headings]
    cells = [max(map(len, column), default=0) for column in zip(*sheet.rows, strict=True)]
    return [max(pair) for pair in zip(words, cells, strict=True)]


def _table(sheet: Sheet) -> Table:
    table = Table(
        title=Text(sheet.title),
        caption=Text(sheet.caption) if sheet.caption else None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for index, (heading, width) in enumerate(zip(sheet.headings, _widths(sheet), strict=True)):
        # Rich would narrow the cells to fit long headings, so headings are wrapped here.
        heading = "\n".join(wrap(heading, width))
        table.add_column(Text(heading), justify="right" if index else "left")
    for row in sheet.rows:
        table.add_row(*map(Text, row))
    return table
