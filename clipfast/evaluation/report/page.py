"""The report's page: one HTML file with everything inside."""

from __future__ import annotations

import json
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from ...attacks.levels import level
from ...files import write_text
from ...pages import filled
from ..results import Control, Results
from .plots import Plot, curve_plots, of_budget
from .sheets import Sheet, sheets
from .words import failed_controls, limits, quotation, verdicts

__all__ = ["write_page"]


def write_page(results: Results, folder: Path) -> Path:
    """Writes index.html into a folder and returns its path.

    Args:
        results: What an evaluation found.
        folder: The folder, which must exist.

    Raises:
        InputError: If the file cannot be written.
    """
    warning = failed_controls(results)
    falling = _plots(list(curve_plots(results)))
    text = filled(
        "clipfast.evaluation.report",
        title=escape(f"clipfast evaluation: {results.run['model']} on {results.run['data']}"),
        quotation=escape(quotation(results)),
        warning="" if warning is None else f'<p class="warning">{escape(warning)}</p>',
        budgets="".join(_budget(results, eps) for eps in results.eps),
        curves=f"<section><h2>How accuracy falls</h2>{falling}</section>" if falling else "",
        controls="".join(_control(control) for control in results.controls) or "<li>none was run</li>",
        limits=escape(limits()),
        skipped=_skipped(results.run.get("skipped")),
        run=escape(json.dumps({k: v for k, v in results.run.items() if k != "skipped"}, indent=1)),
    )
    page = folder / "index.html"
    write_text(page, text)
    return page


def _budget(results: Results, eps: float) -> str:
    """Returns a section of one budget: verdicts, tables and plots."""
    said = "".join(_verdict(line) for line in verdicts(results, eps))
    tables = "".join(_table(sheet) for sheet in sheets(results, eps))
    plots = _plots(list(of_budget(results, eps)))
    return (
        f'<section><h2>Under attacks of {level(eps)}</h2><ul class="verdicts">{said}</ul>{tables}'
        f"{f'<h3>Drift and cost</h3>{plots}' if plots else ''}</section>"
    )


def _verdict(line: str) -> str:
    """Sets the finding in bold, before its figures."""
    found, colon, figures = line.partition(": worst case ")
    return f"<li><strong>{escape(found)}</strong>{escape(f'{colon}{figures}')}</li>"


def _table(sheet: Sheet) -> str:
    title = escape(f"{sheet.title[0].upper()}{sheet.title[1:]}")
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{_cell(cell)}</td>" for cell in cells)}</tr>'
        for name, *cells in sheet.rows
    )
    return (
        f'<h3>{title}</h3><div class="scroll" tabindex="0" role="region" aria-label="{title}">'
        f"<table><thead>{_head(sheet.headings)}</thead><tbody>{body}</tbody></table></div>"
        f'<p class="note">{escape(sheet.caption)}</p>'
    )


def _head(headings: tuple[str, ...]) -> str:
    """Returns a row of headings, or two if some come in groups, as "group: heading"."""
    if not any(": " in heading for heading in headings):
        return f"<tr>{''.join(_th(heading) for heading in headings)}</tr>"
    upper, lower = "", ""
    for group, members in groupby(headings, key=lambda heading: heading.partition(": ")[0]):
        titles = [heading.partition(": ")[2] for heading in members]
        if titles == [""]:
            upper += _th(group, ' rowspan="2"')
        else:
            upper += f'<th scope="colgroup" colspan="{len(titles)}">{escape(group)}</th>'
            lower += "".join(_th(title) for title in titles)
    return f"<tr>{upper}</tr><tr>{lower}</tr>"


def _th(heading: str, attributes: str = "") -> str:
    return f'<th scope="col"{attributes}>{escape(heading)}</th>'


def _cell(cell: str) -> str:
    """Sets how sure a figure is in small, behind the figure."""
    for mark in (" ±", " ("):
        figure, found, rest = cell.partition(mark)
        if found:
            return f"{_kept(figure)} <small>{escape(f'{mark[1:]}{rest}')}</small>"
    return _kept(cell)


def _kept(figure: str) -> str:
    """Keeps a figure on one line; words may break."""
    text = escape(figure)
    return text.replace(" ", "&nbsp;") if any(map(str.isdigit, figure)) else text


def _plots(plots: list[Plot]) -> str:
    figures = "".join(
        f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>" for svg, caption in plots
    )
    return f'<div class="plots">{figures}</div>' if figures else ""


def _skipped(skipped: Any) -> str:
    """Lists the pictures that could not be read, with the reasons, if they are known by name."""
    if not isinstance(skipped, list) or not skipped:
        return ""
    items = "".join(f"<li>{escape(': '.join(map(str, entry)))}</li>" for entry in skipped)
    return f"<h2>Skipped pictures</h2><ul>{items}</ul>"


def _control(control: Control) -> str:
    mark, word = ("right", "&#10003; passed") if control.passed else ("wrong", "&#10007; failed")
    detail = f"{escape(control.name)}: {escape(control.detail)}"
    return f'<li><span class="{mark}">{word}</span> {detail}</li>'
