"""What is said of an evaluation in words: what was measured, and whether a defence helps."""

from __future__ import annotations

from typing import Any

from ...artifacts.metadata import LIMITS
from ...attacks.levels import level
from ..results import Column, Results, SystemResult
from .figures import NOT_ATTACKED, Figures, attacks, figures, is_undefended

__all__ = ["caption", "failed_controls", "limits", "quotation", "verdict", "verdicts"]


def quotation(results: Results) -> str:
    """Returns what every figure is to be quoted with: model, data, budget, seed, number of images.

    Raises:
        KeyError: If `results.run` lacks one of these.
    """
    run = results.run
    model = f"{run['model']}" if run.get("pretrained") is None else f"{run['model']} ({run['pretrained']})"
    rounds = run.get("seeds", 1)
    versions = ", ".join(f"{name} {version}" for name, version in run.get("versions", {}).items())
    parts = [
        f"{model}, weights {str(run['weights_sha256'])[:12]}",
        f"{run['data']}, {run['images']} images" + (f", {_skipped(run)} skipped" if _skipped(run) else ""),
        f"budget {run['budget']}",
        f"seed {run['seed']}" + (f", {rounds} rounds of noise" if rounds != 1 else ""),
    ]
    return "; ".join([*parts, versions] if versions else parts) + "."


def caption(results: Results, eps: float) -> str:
    """Returns what the table of one budget shows, and how its cells are to be read.

    Args:
        results: What an evaluation found.
        eps: The l-inf budget, in [0, 1] pixel units.
    """
    transfer, adaptive = (attacks(results, eps, kind) for kind in ("transfer", "adaptive"))
    predicted = [column.title for column in transfer if column.labels == "predicted"]
    rows = figures(results, eps)
    errors = [share.standard_error for row in rows for share in row.accuracy.values()]
    parts = [
        f"Percent right of {results.run['images']} images, l-inf {level(eps)}; standard errors at most "
        f"{100 * max(errors, default=0):.1f} points.",
        f"Transfer: made on the undefended model, the same pictures for all systems ({_listed(transfer)}).",
    ]
    if predicted:
        parts.append(f"Moving away from the label predicted, not the true one: {'; '.join(predicted)}.")
    if adaptive:
        parts.append(
            f"Adaptive: made on each system itself, each attack on what the ones before it left "
            f"({_listed(adaptive)})."
        )
    if any(column.upper_bound for column in adaptive):
        parts.append("≤: an upper bound, as the attack had few steps; a stronger one may lower it.")
    parts += [
        "Worst case: right clean and under every attack, image by image and with every seed; with its "
        "difference from the undefended system's on the same images (95 % interval, paired bootstrap).",
        "\N{EN DASH}: the attack does not apply, or there is nothing to measure.",
    ]
    if any(row.lacking == NOT_ATTACKED for row in rows):
        parts.append(
            f"A system that was {NOT_ATTACKED} has no worst case: transfer attacks do not know the defence."
        )
    return " ".join(parts)


def verdicts(results: Results, eps: float) -> list[str]:
    """Returns a sentence for each defence.

    Args:
        results: What an evaluation found.
        eps: The l-inf budget, in [0, 1] pixel units.
    """
    return [_verdict(row, eps) for row in figures(results, eps) if not is_undefended(results, row.system)]


def verdict(results: Results, system: SystemResult, eps: float) -> str:
    """Returns a sentence on whether a defence helps at equal attack budget.

    Its worst case is held against the undefended system's. Within two standard errors of the paired
    difference there is no measurable gain.

    Args:
        results: What an evaluation found.
        system: One of its systems.
        eps: The l-inf budget, in [0, 1] pixel units.
    """
    (row,) = (row for row in figures(results, eps) if row.system is system)
    return _verdict(row, eps)


def failed_controls(results: Results) -> str | None:
    """Returns a warning if a control failed or there are no controls, else None."""
    if not results.controls:
        return "No control shows that the attacks are strong: take every figure for an upper bound."
    if failed := [control.name for control in results.controls if not control.passed]:
        names = ", ".join(failed)
        return f"Controls failed ({names}): the attacks may be too weak, and no figure is to be trusted."
    return None


def limits() -> str:
    """Returns what the figures do not show."""
    return f"{LIMITS} A figure holds for its model, data, attacks, budget and images, and for no others."


def _verdict(row: Figures, eps: float) -> str:
    name, at = row.system.name, level(eps)
    if row.worst is None:
        return f"{name}: {row.lacking} at {at}, so nothing is known of its strength."
    if row.gain is None:
        return f"{name}: no verdict at {at}, as the undefended system was not attacked."
    mean, error, (low, high) = row.gain
    undefended = row.worst.mean - mean
    found = (
        f"worst case {100 * row.worst.mean:.1f} % against {100 * undefended:.1f} % undefended, "
        f"{100 * mean:+.1f} points (95 % interval {100 * low:+.1f} to {100 * high:+.1f}, "
        f"{row.worst.n} images)"
    )
    if abs(mean) <= 2 * error:
        return f"{name}: no measurable robustness gain at {at}: {found}."
    if mean < 0:
        return f"{name}: worse than no defence at {at}: {found}."
    bound = "; an upper bound, as a stronger attack may lower it" if row.upper_bound else ""
    return f"{name}: gains {100 * mean:.1f} points of robustness at {at}: {found}{bound}."


def _listed(columns: list[Column]) -> str:
    return "; ".join(column.title for column in columns) or "none"


def _skipped(run: dict[str, Any]) -> int:
    skipped = run.get("skipped", 0)
    return skipped if isinstance(skipped, int) else len(skipped)
