"""Tables of what an evaluation found, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clipfast.attacks.levels import level
from clipfast.evaluation.report import worst_case
from clipfast.evaluation.results import CLEAN, Results
from clipfast.measurement.statistics import wilson

__all__ = ["percent", "readme_table", "table", "transfer_table"]

# What readers know the systems of an evaluation by; the others are left out.
_SYSTEMS = {
    "undefended": "undefended CLIP",
    "3x3 blur": "3x3 blur",
    "fine-tuned twin": "fine-tuned twin (TeCoA)",
    "TTC": "TTC as published",
    "recommended": "**clipfast, recommended**",
}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A heading and rows of cells."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows))


def percent(score: dict[str, float]) -> str:
    """'71.2 +- 1.3'."""
    return f"{100 * score['mean']:.1f} &plusmn; {100 * score['standard_error']:.1f}"


def readme_table(evaluations: Sequence[Results], title: str) -> str:
    """A system a row: percent right with 95 % intervals at the first budget, and cost on clean pictures.

    evaluations: of the same model, pictures and budget; a system's row is of the first that has it, and names
    its number of pictures where that is not the first's.
    """
    eps, images = evaluations[0].eps[0], evaluations[0].run["images"]
    rows = []
    for name, label in _SYSTEMS.items():
        results, system = next(
            (results, system) for results in evaluations for system in results.systems if system.name == name
        )
        worst = worst_case(results, system, eps)
        assert worst is not None
        assert system.cost is not None
        flags = (system.right[CLEAN.key][0], system.right[f"pgd-10@{level(eps)}"][0], worst)
        cost = (str(system.passes[CLEAN.key]), f"{system.cost:.1f}x")
        of = "" if len(worst) == images else f" (first {len(worst)})"
        rows.append([label + of, *map(_interval, flags), *cost])
    return table([title, "clean", "PGD-10", "worst case, adaptive", "passes", "time"], rows)


def transfer_table(results: Results) -> str:
    """A system a row: percent right with 95 % intervals, clean and under PGD-10 on the undefended model."""
    columns = {"clean": CLEAN.key, **{f"PGD-10, {level(e)}": f"pgd-10@{level(e)}" for e in results.eps}}
    rows = [
        [
            _SYSTEMS.get(system.name, system.name),
            *(_interval(system.right[key][0]) for key in columns.values()),
            str(system.passes[CLEAN.key]),
        ]
        for system in results.systems
    ]
    return table(["", *columns, "passes, clean"], rows)


def _interval(right: NDArray[np.bool_]) -> str:
    """'71.7 (59 to 82)': of so few images that an interval says more than a standard error."""
    low, high = wilson(int(right.sum()), len(right))
    return f"{100 * right.mean():.1f} ({100 * low:.0f} to {100 * high:.0f})"
