"""Pictures, attacks and baselines: what a defence is measured with. Itself without torch."""

from typing import Literal

__all__ = ["BudgetName"]

BudgetName = Literal["quick", "full"]  # of `clipfast.evaluation.budgets`
