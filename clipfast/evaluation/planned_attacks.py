"""Which attacks a budget runs, and the columns that stand for them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..attacks import Attack, make
from ..attacks.levels import level
from ..errors import InputError
from .budgets import Budget
from .results import Column

__all__ = ["Planned", "planned"]

_TITLES = {
    "cw": "CW", "apgd-ce": "APGD-CE", "apgd-dlr": "APGD-DLR", "square": "Square",
    "bpda": "BPDA + EOT", "gate": "gate evasion", "apgd-eot": "APGD + EOT", "black-box": "Square, black box",
}  # fmt: skip
_DLR, _DLR_CLASSES = "apgd-dlr", 3


@dataclass(frozen=True)
class Planned:
    """An attack and its column."""

    column: Column
    attack: Attack


def planned(
    budget: Budget, names: Sequence[str] | None, eps: float, *, classes: int | None = None
) -> list[Planned]:
    """The attacks of a budget at one eps, in [0, 1] pixel units, in order: transfer, then adaptive.

    names: those of them that are wanted; None for all but those on request, and but for the DLR loss where
    there are fewer classes than it needs. classes: how many, None where that is not known yet. Adaptive
    figures are upper bounds too where some of the budget's attacks are left out. Raises InputError for names
    that the budget has not, for none, and for the DLR loss where it is named all the same.
    """
    known = (*budget.transfer, *budget.adaptive)
    if unknown := [name for name in names or () if name not in known]:
        raise InputError(f"expected attacks of {', '.join(known)}, got {', '.join(unknown)}")
    if names is not None and not names:
        raise InputError("expected at least one attack, got none")
    usual = [name for name in known if name not in budget.on_request]
    if classes is not None and classes < _DLR_CLASSES:
        usual = [name for name in usual if name != _DLR]
        if names is not None and _DLR in names:
            raise InputError(f"{_DLR} needs at least {_DLR_CLASSES} classes, got {classes}")
    wanted = usual if names is None else names
    is_bound = budget.upper_bound or not {name for name in usual if name in budget.adaptive} <= set(wanted)

    def column(name: str, note: str = "", **of: Any) -> Column:
        title = _TITLES.get(name) or re.sub("^pgd", "PGD", name)
        return Column(key=f"{name}{note}@{level(eps)}", title=title + note, eps=eps, **of)

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
