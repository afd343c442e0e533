"""A budget of seconds."""

from __future__ import annotations

from clipfast.evaluation.budgets import Budget

EPS = 2 / 255
TINY = Budget(
    name="quick",
    images=8,
    transfer={"pgd-10": {"steps": 3}, "square": {"queries": 4}},
    predicted=("pgd-10",),
    adaptive={"bpda": {"steps": 2, "samples": 2}, "gate": {"steps": 2}, "retries": {"times": 1}},
    curve={"steps": 2, "samples": 1},
    curve_images=5,
    curve_eps=(EPS, 32 / 255),
    curve_samples=(1, 2),
    upper_bound=True,
)
