"""The demo's table and verdict in words."""

from __future__ import annotations

from rich.table import Table

from ..attacks.pgd10 import EOT_SAMPLES, PGD_STEPS
from .experiment import ATTACK_EPS, DemoResult

__all__ = ["COLUMNS", "demo_verdict", "results_table", "table_rows"]

COLUMNS = ("system", "clean", "PGD-10", "adaptive, worst case", "cost, clean", "cost, attacked")


def table_rows(result: DemoResult) -> list[tuple[str, ...]]:
    """The table's cells, row by row, under COLUMNS."""
    return [
        (
            row.system,
            *(f"{100 * value:.0f} %" for value in (row.clean, row.attacked, row.adaptive)),
            *(f"{value:.1f}x" for value in (row.cost_clean, row.cost_attacked)),
        )
        for row in result.rows
    ]


def demo_caption(result: DemoResult) -> str:
    """What was measured, in one paragraph."""
    n = len(result.labels)
    budget = f"l-inf, {ATTACK_EPS * 255:.0f}/255, {PGD_STEPS} steps"
    return (
        f"Accuracy on {n} freshly drawn pictures (standard error up to {50 / n**0.5:.0f} points). "
        f"PGD-10: {budget}, on the undefended model, saved as 8-bit PNG. Adaptive, worst case: right on the "
        f"clean picture, under PGD-10, and under the same budget against the system itself (TTC: BPDA, "
        f"{EOT_SAMPLES} noise samples a step); an upper bound. Cost: time over the undefended model's."
    )


def results_table(result: DemoResult) -> Table:
    """The table for a terminal."""
    table = Table(title="bundled model", caption=demo_caption(result), caption_justify="left")
    for column in COLUMNS:
        table.add_column(column, no_wrap=column == COLUMNS[0])
    for row in table_rows(result):
        table.add_row(*row)
    return table


def demo_verdict(result: DemoResult) -> list[str]:
    """Four lines: the attack, the defence, the adaptive attack, what it does not show."""
    undefended, _, twin, ttc = result.rows
    attacked, clean = (p.countered.double().mean().item() for p in (result.attacked, result.clean))
    return [
        f"1. {PGD_STEPS} steps of at most {ATTACK_EPS * 255:.0f} grey levels take the undefended model "
        f"from {undefended.clean:.0%} to {undefended.attacked:.0%}.",
        f"2. With the counterattack it is {ttc.attacked:.0%} on those pictures and {ttc.clean:.0%} on clean "
        f"ones; the gate countered {attacked:.0%} of the attacked and {clean:.0%} of the clean pictures.",
        f"3. An attacker who knows the defence leaves {ttc.adaptive:.0%} (the static fine-tuned twin: "
        f"{twin.adaptive:.0%}); that is the defence's figure, and an upper bound.",
        "4. A tiny model on drawn shapes: it shows the mechanism and is no evidence about real CLIP.",
    ]
