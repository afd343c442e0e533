"""How much an evaluation spends: which attacks it runs, and how strong they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..attacks import ADAPTIVE, TRANSFER
from ..attacks.registry import settings_of
from ..errors import InputError
from . import BudgetName

__all__ = ["BUDGETS", "Budget", "budget_of"]

Settings = Mapping[str, Mapping[str, Any]]  # of attacks, by name


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The attacks of an evaluation and their strength.

    Attributes:
        name: The budget's name.
        images: How many images are drawn from the data.
        transfer: Attacks on the undefended model, away from true labels, with their settings.
        predicted: Those of `transfer` that are also made away from the model's own labels.
        adaptive: Attacks on each defence, in order, with their settings.
        on_request: Those of `adaptive` that run only if they are named.
        curve: Settings of the attack whose accuracy is drawn as curves.
        curve_images: How many of the first images the curves are of.
        curve_eps: The l-inf budgets of a curve, in [0, 1] pixel units.
        curve_samples: The numbers of samples of noise a step of a curve.
        upper_bound: Whether adaptive attacks have so few steps that their figures are upper bounds.
    """

    name: BudgetName
    images: int
    transfer: Settings
    predicted: tuple[str, ...]
    adaptive: Settings
    on_request: tuple[str, ...] = ()
    curve: Mapping[str, Any]
    curve_images: int
    curve_eps: tuple[float, ...]
    curve_samples: tuple[int, ...]
    upper_bound: bool


_CURVE_EPS = tuple(k / 255 for k in (0.5, 1, 2, 4, 8, 16, 32))
_FULL = {"steps": 100, "samples": 10, "restarts": 5}
_QUICK = {"steps": 10, "samples": 2}

BUDGETS = {
    budget.name: budget
    for budget in (
        Budget(
            name="quick",
            images=200,
            transfer={**{name: {} for name in TRANSFER}, "cw": {"steps": 10}},
            predicted=("pgd-10",),
            adaptive={
                **{name: settings_of(name, _QUICK) for name in ADAPTIVE},
                "unrolled": {"steps": 6},
                "gate": {"steps": 10},
                "black-box": {"queries": 30},
            },
            on_request=("targeted", "apgd-eot", "black-box"),
            curve=_QUICK,
            curve_images=16,
            curve_eps=_CURVE_EPS[1:],
            curve_samples=(1, 2, 4),
            upper_bound=True,
        ),
        Budget(
            name="full",
            images=1000,
            transfer={
                **{name: {} for name in TRANSFER},
                **{name: {"steps": 100, "restarts": 5} for name in ("apgd-ce", "apgd-dlr")},
                "square": {"queries": 5000},
            },
            predicted=TRANSFER,
            adaptive={
                **{name: settings_of(name, _FULL) for name in ADAPTIVE},
                "black-box": {"queries": 1000},
            },
            curve=_FULL | {"restarts": 1},
            curve_images=200,
            curve_eps=_CURVE_EPS,
            curve_samples=(1, 2, 5, 10, 20),
            upper_bound=False,
        ),
    )
}


def budget_of(name: str) -> Budget:
    """Returns the budget of a name.

    Raises:
        InputError: If there is none of that name.
    """
    if name not in BUDGETS:
        raise InputError(f"expected a budget of {', '.join(BUDGETS)}, got {name!r}")
    return BUDGETS[name]
