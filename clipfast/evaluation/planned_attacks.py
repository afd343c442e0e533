"""Which attacks a budget runs, and the columns that stand for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..attacks import ATTACKS, Attack, make
from ..attacks.levels import level
from ..errors import InputError
from .budgets import Budget
from .results import Column

__all__ = ["Planned", "planned"]


@dataclass(frozen=True)
class Planned:
    """An attack and its column.

    Attributes:
        column: The column of the results that the attack fills.
        attack: The attack with its settings.
    """

    column: Column
    attack: Attack


def planned(
    budget: Budget, names: Sequence[str] | None, eps: float, *, classes: int | None = None
) -> list[Planned]:
    """Returns the attacks of a budget at one eps, in order: transfer, then adaptive.

    Adaptive figures are upper bounds also if some of the budget's usual adaptive attacks are left out.

    Args:
        budget: The budget.
        names: The attacks that are wanted; None for all but those on request and those that need more
            classes than there are.
        eps: The l-inf budget, in [0, 1] pixel units.
        classes: The number of classes; None if it is not known yet.

    Raises:
        InputError: If the budget has no attack of a name, if `names` is empty, or if an attack that is
            named needs more classes.
    """
    known = (*budget.transfer, *budget.adaptive)
    if unknown := [name for name in names or () if name not in known]:
        raise InputError(f"expected attacks of {', '.join(known)}, got {', '.join(unknown)}")
    if names is not None and not names:
        raise InputError("expected at least one attack, got none")
    fits = {name: classes is None or classes >= ATTACKS[name].classes for name in known}
    for name in names or ():
        if not fits[name]:
            raise InputError(f"{name} needs at least {ATTACKS[name].classes} classes, got {classes}")
    usual = [name for name in known if fits[name] and name not in budget.on_request]
    wanted = usual if names is None else names
    is_bound = budget.upper_bound or not {name for name in usual if name in budget.adaptive} <= set(wanted)

    def column(name: str, note: str = "", **fields: Any) -> Column:
        title = ATTACKS[name].title + note
        return Column(key=f"{name}{note}@{level(eps)}", title=title, eps=eps, **fields)

    transfer = {name: make(name, **budget.transfer[name]) for name in budget.transfer if name in wanted}
    return [
        *(Planned(column(name, kind="transfer"), attack) for name, attack in transfer.items()),
        *(
            Planned(column(name, ", predicted labels", kind="transfer", labels="predicted"), attack)
            for name, attack in transfer.items()
            if name in budget.predicted
        ),
        *(
            Planned(column(name, kind="adaptive", upper_bound=is_bound), make(name, **settings))
            for name, settings in budget.adaptive.items()
            if name in wanted
        ),
    ]
