"""The report's plots, each as SVG text and the words below it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ... import pages
from ...attacks.levels import level
from ...calibration.roc_chart import roc_chart
from ...calibration.separation import separation
from ...pages import Axis
from ..results import CLEAN, Column, Point, Results, SystemResult
from .figures import attacks, figures, gate_groups

__all__ = ["Plot", "curve_plots", "of_budget"]


class Plot(NamedTuple):
    """A chart and what is said of it.

    Attributes:
        svg: The chart as SVG text.
        caption: Plain text.
    """

    svg: str
    caption: str


def of_budget(results: Results, eps: float) -> Iterator[Plot]:
    """Plots drift, the gates' ROC under the first transfer attack, and worst-case accuracy against cost.

    Args:
        results: What an evaluation found.
        eps: The l-inf budget, in [0, 1] pixel units.

    Yields:
        One plot for each gate, one of all gates, and one of cost, as far as there is something to show.

    Raises:
        InputError: If what a gate measured is not finite.
    """
    for attack in attacks(results, eps, "transfer")[:1]:
        gates = {names: s for names, s in gate_groups(results).items() if attack.key in s.drift}
        yield from (_drift(names, system, attack, eps) for names, system in gates.items())
        if gates:
            yield _roc(gates, attack, eps)
    points = {
        row.system.name: (row.system.cost, row.worst.mean)
        for row in figures(results, eps)
        if row.system.cost is not None and row.worst is not None
    }
    if points:
        x = Axis.logarithmic(
            "time over the undefended system's", [cost for cost, _ in points.values()], unit="x"
        )
        label = f"worst-case accuracy at {level(eps)} against cost, a mark a system"
        y = Axis.percent("right in the worst case", max(worst for _, worst in points.values()))
        svg = pages.scatter(points, x, y, label=label, known=_names(results))
        yield Plot(svg, f"Worst case at {level(eps)} against cost on clean pictures.")


def curve_plots(results: Results) -> Iterator[Plot]:
    """Plots accuracy against the attack's budget, and against its noise samples a step.

    Args:
        results: What an evaluation found.

    Yields:
        One plot of each kind, if there are such curves.
    """
    if results.by_eps:
        x = Axis.at("eps, grey levels of 255", _places(results.by_eps, 255), lambda v: f"{v:.3g}")
        label = "accuracy against the budget of an attack on the system itself, a line a system"
        yield Plot(
            _lines(results, results.by_eps, x, label, 255),
            "Accuracy against the budget of an attack on the system itself: one that works takes it to zero.",
        )
    if results.by_samples:
        x = Axis.at("noise samples a step (EOT)", _places(results.by_samples), lambda v: f"{v:.0f}", log=True)
        label = "accuracy against the noise samples that each step averages over, a line a system"
        yield Plot(
            _lines(results, results.by_samples, x, label),
            "Accuracy against the noise samples that each step of an attack averages over: where the line "
            "has not flattened, more samples would take it down further.",
        )


def _drift(names: str, system: SystemResult, attack: Column, eps: float) -> Plot:
    clean, attacked = system.drift[CLEAN.key], system.drift[attack.key]
    label = f"histograms of what the gate of {names} measures, clean and under {attack.title} at {level(eps)}"
    svg = pages.histogram(clean, attacked, system.tau_threshold, label=label)
    said = str(separation(clean, attacked))
    return Plot(
        svg,
        f"{names}: what the gate measures, clean and under {attack.title} at {level(eps)}; left of the "
        f"dashed line (tau_threshold = {system.tau_threshold:.4g}) pictures are countered. "
        f"{said[0].upper()}{said[1:]}.",
    )


def _roc(gates: dict[str, SystemResult], attack: Column, eps: float) -> Plot:
    svg = roc_chart(
        {names: (gate.drift[CLEAN.key], gate.drift[attack.key]) for names, gate in gates.items()},
        label=f"the gates' receiver operating characteristic under {attack.title} at {level(eps)}",
    )
    return Plot(
        svg,
        f"What each threshold would counter, under {attack.title} at {level(eps)}. On the dashed line a gate "
        "does not separate; below it attacked pictures measure higher than clean ones.",
    )


def _places(curves: dict[str, list[Point]], scale: float = 1) -> list[float]:
    return [point.x * scale for points in curves.values() for point in points]


def _lines(results: Results, curves: dict[str, list[Point]], x: Axis, label: str, scale: float = 1) -> str:
    series = {
        name: [(p.x * scale, p.accuracy) for p in sorted(points, key=lambda p: p.x)]
        for name, points in curves.items()
    }
    y = Axis.percent("right", max(place for points in series.values() for _, place in points))
    return pages.lines(series, x, y, label=label, known=_names(results))


def _names(results: Results) -> list[str]:
    return [system.name for system in results.systems]
