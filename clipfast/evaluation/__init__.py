"""Pictures, attacks and baselines to measure a defence with; the package itself imports no torch."""

from typing import Literal

__all__ = ["BudgetName"]

BudgetName = Literal["quick", "full"]  # the names of `clipfast.evaluation.budgets.BUDGETS`
