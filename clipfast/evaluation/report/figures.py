"""The figures of each system at one budget, from its flags."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...measurement import statistics
from ...measurement.statistics import Difference, Share
from ..results import CLEAN, Column, Results, SystemResult

__all__ = [
    "NOT_ATTACKED",
    "Figures",
    "attacks",
    "columns",
    "figures",
    "gate_groups",
    "is_undefended",
    "worst_case",
]


NOT_ATTACKED = "not attacked adaptively"


@dataclass(frozen=True, kw_only=True)
class Figures:
    """A system at one budget.

    Attributes:
        system: The system.
        accuracy: The share of images that are right, by the key of each column that applies.
        worst: The share of images that are right in its worst case; None if that is not known.
        lacking: Why the worst case is not known; None if it is.
        upper_bound: Whether a stronger attack may still lower the worst case.
        gain: The worst case minus the undefended system's; None for that system, or if either is not
            known.
        clean_countered: The share of clean pictures that its gate counters; None without a gate.
        attacked_passed: The share of the transfer attacks' pictures that pass its gate; None without a
            gate.
    """

    system: SystemResult
    accuracy: dict[str, Share]
    worst: Share | None
    lacking: str | None
    upper_bound: bool
    gain: Difference | None
    clean_countered: float | None
    attacked_passed: float | None


def columns(results: Results, eps: float) -> list[Column]:
    """Returns the columns of a table at one budget: clean, the transfer attacks, the adaptive ones.

    Args:
        results: What an evaluation found.
        eps: The l-inf budget, in [0, 1] pixel units.
    """
    return [CLEAN, *attacks(results, eps, "transfer"), *attacks(results, eps, "adaptive")]


def attacks(results: Results, eps: float, kind: str) -> list[Column]:
    """Returns the attacks of a kind at one budget, in order.

    Args:
        results: What an evaluation found.
        eps: The l-inf budget, in [0, 1] pixel units.
        kind: "transfer" or "adaptive".
    """
    return [column for column in results.columns if column.eps == eps and column.kind == kind]


def is_undefended(results: Results, system: SystemResult) -> bool:
    """Returns whether a system is the one that transfer attacks are made on.

    Args:
        results: What an evaluation found.
        system: One of its systems.
    """
    return system is results.systems[0]


def worst_case(results: Results, system: SystemResult, eps: float) -> NDArray[np.bool_] | None:
    """Returns which images a system gets right clean and under every attack of a budget, with each seed.

    Args:
        results: What an evaluation found.
        system: One of its systems.
        eps: The l-inf budget, in [0, 1] pixel units.

    Returns:
        bool [N]; None if it is not known. That is so if the system was not attacked itself, or if it
        misses one of the attacks that all systems have. Transfer attacks are made on the undefended
        system, and count as attacks on it alone.
    """
    shared = [CLEAN, *attacks(results, eps, "transfer")]
    own = [column for column in attacks(results, eps, "adaptive") if column.key in system.right]
    if any(column.key not in system.right for column in shared):
        return None
    if not own and not (is_undefended(results, system) and len(shared) > 1):
        return None
    flags = (seed for column in (*shared, *own) for seed in system.right[column.key])
    return statistics.right_in_every_case(*flags)


def figures(results: Results, eps: float) -> list[Figures]:
    """Returns the figures of every system, in order.

    Args:
        results: What an evaluation found.
        eps: The l-inf budget, in [0, 1] pixel units.
    """
    undefended = worst_case(results, results.systems[0], eps)
    return [_figures(results, system, eps, undefended) for system in results.systems]


def gate_groups(results: Results) -> dict[str, SystemResult]:
    """Returns one system for each gate, by the names of all systems that share it.

    Systems share a gate if their drifts and thresholds are equal.
    """
    groups: list[list[SystemResult]] = []
    for system in results.systems:
        if CLEAN.key not in system.drift:
            continue
        for group in groups:
            if _same_gate(group[0], system):
                group.append(system)
                break
        else:
            groups.append([system])
    return {"; ".join(system.name for system in group): group[0] for group in groups}


def _same_gate(first: SystemResult, second: SystemResult) -> bool:
    return (
        first.tau_threshold == second.tau_threshold
        and first.drift.keys() == second.drift.keys()
        and all(np.array_equal(first.drift[key], second.drift[key]) for key in first.drift)
    )


def _figures(
    results: Results, system: SystemResult, eps: float, undefended: NDArray[np.bool_] | None
) -> Figures:
    worst = worst_case(results, system, eps)
    applying = [column for column in columns(results, eps) if column.key in system.right]
    gain = None
    if worst is not None and undefended is not None and not is_undefended(results, system):
        gain = statistics.paired_difference(worst, undefended)
    transfer = [c.key for c in attacks(results, eps, "transfer") if c.key in system.countered]
    return Figures(
        system=system,
        accuracy={column.key: statistics.over_seeds(system.right[column.key]) for column in applying},
        worst=None if worst is None else statistics.share(worst),
        lacking=None if worst is not None else _lacking(applying),
        upper_bound=any(column.upper_bound for column in applying),
        gain=gain,
        clean_countered=_mean(system, [CLEAN.key] if CLEAN.key in system.countered else []),
        attacked_passed=None if (countered := _mean(system, transfer)) is None else 1 - countered,
    )


def _lacking(applying: list[Column]) -> str:
    attacked = any(column.kind == "adaptive" for column in applying)
    return "not under every attack" if attacked else NOT_ATTACKED


def _mean(system: SystemResult, keys: list[str]) -> float | None:
    """Returns the share that is countered under these columns together."""
    return float(np.concatenate([system.countered[key] for key in keys]).mean()) if keys else None
