"""The demo's table and verdict, in words."""

from __future__ import annotations

from rich.table import Table

from ..attacks.levels import level
from ..attacks.pgd10 import EOT_SAMPLES, PGD_STEPS
from ..config import Preset
from .adaptive import ADAPTIVE_ATTACKS
from .experiment import ATTACK_EPS, TWIN, UNDEFENDED, DemoResult
from .subject import DEFENCES

__all__ = ["COLUMNS", "demo_caption", "demo_verdict", "results_table", "table_rows"]

COLUMNS = ("system", "clean", "PGD-10", "adaptive, worst case", "cost, clean", "cost, attacked")


def table_rows(result: DemoResult) -> list[tuple[str, ...]]:
    """Returns the table's cells, row by row, in the order of COLUMNS."""
    return [
        (
            name,
            *(f"{100 * value:.0f} %" for value in (row.clean, row.attacked, row.adaptive)),
            *(f"{value:.1f}x" for value in (row.cost_clean, row.cost_attacked)),
        )
        for name, row in result.rows.items()
    ]


def demo_caption(result: DemoResult) -> str:
    """Returns one paragraph that says what was measured."""
    n = len(result.labels)
    through, *gated = ADAPTIVE_ATTACKS.values()
    return (
        f"Accuracy on {result.described.pictures}; standard error up to {50 / n**0.5:.0f} points. "
        f"PGD-10: l-inf {level(ATTACK_EPS)}, {PGD_STEPS} steps on the undefended model, saved as 8-bit PNG. "
        "Adaptive, worst case: right on the clean picture, under PGD-10, and under every attack of that "
        f"budget on the system itself. Each has {PGD_STEPS} steps. Every system is attacked {through}, and "
        f"one with a gate also {', '.join(gated[:-1])} and {gated[-1]}. Attackers hold a counterattack "
        f"constant (BPDA), and average over {EOT_SAMPLES} samples a step where noise is drawn. {PGD_STEPS} "
        "steps are few: adaptive figures are upper bounds. Cost: time over the undefended model's."
    )


def results_table(result: DemoResult) -> Table:
    """Returns the table for a terminal."""
    table = Table(title=result.described.title, caption=demo_caption(result), caption_justify="left")
    for column in COLUMNS:
        table.add_column(column, no_wrap=column == COLUMNS[0])
    for row in table_rows(result):
        table.add_row(*row)
    return table


def demo_verdict(result: DemoResult) -> list[str]:
    """Returns the verdict, a numbered line each.

    The lines are about the attack, the recommended and the published defence, the adaptive attacks, and
    what the demo does not show.
    """
    rows = result.rows
    undefended, recommended, published = (
        rows[name] for name in (UNDEFENDED, DEFENCES["recommended"], DEFENCES["published"])
    )
    lines = [
        f"{PGD_STEPS} steps of an attack that moves no pixel by more than {ATTACK_EPS * 255:.0f} grey levels "
        f"take the undefended model from {undefended.clean:.0%} to {undefended.attacked:.0%}.",
        f"The recommended defence gets {recommended.attacked:.0%} of the attacked pictures right, and "
        f"{recommended.clean:.0%} of the clean ones. {_gate(result, 'recommended')}",
        f"TTC as published gets {published.attacked:.0%} of the attacked pictures right, and "
        f"{published.clean:.0%} of the clean ones. {_gate(result, 'published')}",
        f"Attackers who know the defence leave {recommended.adaptive:.0%} to the recommended one and "
        f"{published.adaptive:.0%} to the published one. They leave {_twin(result)}"
        f"{undefended.adaptive:.0%} without a defence. Judge by these figures; they are upper bounds.",
        result.described.limits,
    ]
    return [f"{number}. {line}" for number, line in enumerate(lines, 1)]


def _twin(result: DemoResult) -> str:
    if TWIN not in result.rows:
        return ""
    left = result.rows[TWIN].adaptive
    return f"{left:.0%} to a twin of the model that was fine-tuned against attacks, and "


def _gate(result: DemoResult, preset: Preset) -> str:
    defended = result.defences[preset]
    if defended.config.is_fixed:
        return "It has no gate, and answers every picture in one way."
    attacked, clean = (p.countered.double().mean().item() for p in (defended.attacked, defended.clean))
    return f"Its gate countered {attacked:.0%} of the attacked and {clean:.0%} of the clean ones."
