"""The report's tables as headings and cells of text, for terminals and pages alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...attacks.levels import level
from ...calibration.separation import separation
from ...measurement.statistics import Share
from ..results import CLEAN, Column, Results, SystemResult
from .figures import Figures, attacks, columns, figures, gate_groups, is_undefended
from .words import caption

__all__ = ["Sheet", "accuracy", "gates", "sheets", "spent"]

NONE = "\N{EN DASH}"


@dataclass(frozen=True)
class Sheet:
    """A table of text.

    Attributes:
        title: What it is about.
        headings: Its headings; "group: heading" if some come in groups.
        rows: Its rows, of as many cells as there are headings.
        caption: What explains it.
    """

    title: str
    headings: tuple[str, ...]
    rows: list[tuple[str, ...]]
    caption: str


def sheets(results: Results, eps: float) -> Iterator[Sheet]:
    """Yields the tables of one budget: accuracy and cost, then gates and adaptive attacks' cost, if any.

    Args:
        results: What an evaluation found.
        eps: The l-inf budget, in [0, 1] pixel units.
    """
    yield accuracy(results, eps)
    for sheet in (gates(results, eps), spent(results, eps)):
        if sheet is not None:
            yield sheet


def accuracy(results: Results, eps: float) -> Sheet:
    """Returns a table of accuracies, worst case, gain, the gate's error rates and cost, a row a system.

    Args:
        results: What an evaluation found.
        eps: The l-inf budget, in [0, 1] pixel units.
    """
    _, *attacking = columns(results, eps)
    headings = (
        "system",
        CLEAN.title,
        "worst case",
        "minus undefended",
        *map(_heading, attacking),
        "clean countered",
        "attacked passed",
        "images/s",
        "cost",
        "passes",
    )
    found, rows = figures(results, eps), []
    for row in found:
        system = row.system
        rows.append(
            (
                system.name,
                _accuracy(row.accuracy.get(CLEAN.key)),
                _worst(results, row),
                _gain(row),
                *(_accuracy(row.accuracy.get(column.key), bound=column.upper_bound) for column in attacking),
                _percent(row.clean_countered),
                _percent(row.attacked_passed),
                NONE if system.images_per_second is None else f"{system.images_per_second:.3g}",
                NONE if system.cost is None else f"{system.cost:.1f}x",
                str(system.passes.get(CLEAN.key, NONE)),
            )
        )
    notes = [
        caption(results, eps),
        "Images/s, cost (time over the undefended system's) and encoder passes (F forward, B backward) an "
        "image: on clean pictures.",
    ]
    if any(row.clean_countered is not None for row in found):
        notes.insert(
            1,
            "The gate's errors: clean pictures countered, and transfer-attacked ones passed; an adaptive "
            "attacker chooses.",
        )
    return Sheet(f"accuracy at {level(eps)}", headings, rows, " ".join(notes))


def gates(results: Results, eps: float) -> Sheet | None:
    """Returns a table of how well gates tell each transfer attack's pictures from clean ones.

    Args:
        results: What an evaluation found.
        eps: The l-inf budget, in [0, 1] pixel units.

    Returns:
        The table; None without a gate or a transfer attack.

    Raises:
        InputError: If what a gate measured is not finite.
    """
    transfer, groups = attacks(results, eps, "transfer"), gate_groups(results)
    if not groups or not transfer:
        return None
    return Sheet(
        f"gates at {level(eps)}",
        ("attack", *(f"gate of {names}" for names in groups)),
        [(column.title, *(_gate(system, column) for system in groups.values())) for column in transfer],
        "AUROC of a low measure as a sign of attack, with its 95 % interval: 1 tells attacked pictures from "
        "clean ones, 0.5 does not separate them, below 0.5 attacked pictures measure higher than clean ones.",
    )


def spent(results: Results, eps: float) -> Sheet | None:
    """Returns a table of the encoder passes that adaptive attacks spent an image.

    Args:
        results: What an evaluation found.
        eps: The l-inf budget, in [0, 1] pixel units.

    Returns:
        The table; None if no passes are known.
    """
    adaptive = attacks(results, eps, "adaptive")
    keys = {column.key for column in adaptive}
    rows = [
        (system.name, *(str(system.attack_passes.get(column.key, NONE)) for column in adaptive))
        for system in results.systems
        if keys & set(system.attack_passes)
    ]
    if not rows:
        return None
    return Sheet(
        f"what adaptive attacks spent at {level(eps)}",
        ("system", *(column.title for column in adaptive)),
        rows,
        "Encoder passes an image that was attacked: F forward, B backward.",
    )


def _accuracy(share: Share | None, *, bound: bool = False) -> str:
    if share is None:
        return NONE
    return f"{'≤ ' if bound else ''}{100 * share.mean:.1f} ± {100 * share.standard_error:.1f}"


def _worst(results: Results, row: Figures) -> str:
    if row.worst is None:
        return NONE if is_undefended(results, row.system) else str(row.lacking)
    return _accuracy(row.worst, bound=row.upper_bound)


def _gain(row: Figures) -> str:
    if row.gain is None:
        return NONE
    low, high = row.gain.interval
    bound = "≤ " if row.upper_bound else ""
    return f"{bound}{100 * row.gain.mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.1f} %"


def _gate(system: SystemResult, column: Column) -> str:
    if column.key not in system.drift:
        return NONE
    found = separation(system.drift[CLEAN.key], system.drift[column.key])
    return f"{found.kind}, {found.auroc:.2f} ({found.interval.low:.2f} to {found.interval.high:.2f})"


def _heading(column: Column) -> str:
    """Returns the attack's name below its group's."""
    labels = f", {column.labels} labels"
    group = f"{column.kind}{labels}" if column.labels == "predicted" else column.kind
    return f"{group}: {column.title.removesuffix(labels)}"
