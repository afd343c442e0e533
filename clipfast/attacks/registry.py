"""The attacks by name: which there are, what reports call them, and the settings of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import InputError
from .apgd import AutoPGD
from .attack import Attack
from .gate_evasion import BothBranches, GateEvasion
from .projected import ProjectedAttack, Targeted
from .retries import Retries
from .square import Square

__all__ = ["ADAPTIVE", "ATTACKS", "TRANSFER", "CataloguedAttack", "make", "settings_of"]


@dataclass(frozen=True, kw_only=True)
class CataloguedAttack:
    """An attack that has a name.

    Attributes:
        title: What reports call it.
        kind: "transfer" if it is made on the undefended model and held against every system; "adaptive"
            if it is made on each system itself.
        attack: Its class.
        usual: Settings that differ from the defaults of its class.
        classes: The fewest classes that it needs.
    """

    title: str
    kind: Literal["transfer", "adaptive"]
    attack: type[Attack]
    usual: Mapping[str, Any] = field(default_factory=dict)
    classes: int = 2


def _transfer(title: str, attack: type[Attack], *, classes: int = 2, **usual: Any) -> CataloguedAttack:
    return CataloguedAttack(title=title, kind="transfer", attack=attack, usual=usual, classes=classes)


def _adaptive(title: str, attack: type[Attack], **usual: Any) -> CataloguedAttack:
    return CataloguedAttack(title=title, kind="adaptive", attack=attack, usual=usual)


# Every step is taken, as published.
_PGD: Mapping[str, Any] = {"step_size": 1 / 255, "stops": False}

# In the order in which an evaluation runs them.
ATTACKS = {
    "pgd-10": _transfer("PGD-10", ProjectedAttack, steps=10, **_PGD),
    "pgd-100": _transfer("PGD-100", ProjectedAttack, steps=100, **_PGD),
    "cw": _transfer("CW", ProjectedAttack, steps=100, loss="margin", **_PGD),
    "apgd-ce": _transfer("APGD-CE", AutoPGD, loss="cross-entropy", stops=False),
    "apgd-dlr": _transfer("APGD-DLR", AutoPGD, loss="dlr", stops=False, classes=3),
    "square": _transfer("Square", Square),
    "bpda": _adaptive("BPDA + EOT", ProjectedAttack),
    "unrolled": _adaptive("unrolled", ProjectedAttack, through="unrolled"),
    "gate": _adaptive("gate evasion", GateEvasion),
    "gate-passed": _adaptive("gate evasion, what passes", GateEvasion, through="passed"),
    "gate-countered": _adaptive("countered all the same", GateEvasion, through="countered"),
    "both-branches": _adaptive("both branches", BothBranches),
    "targeted": _adaptive("targeted", Targeted),
    "apgd-eot": _adaptive("APGD + EOT", AutoPGD),
    "black-box": _adaptive("Square, black box", Square),
    "retries": _adaptive("retries", Retries),
}

TRANSFER = tuple(name for name, entry in ATTACKS.items() if entry.kind == "transfer")
ADAPTIVE = tuple(name for name, entry in ATTACKS.items() if entry.kind == "adaptive")


def make(name: str, **settings: Any) -> Attack:
    """Builds an attack by its name.

    Args:
        name: One of `ATTACKS`.
        **settings: Fields of the attack's class, in place of its usual settings.

    Raises:
        InputError: If the name is not known, or the attack does not have or allow a setting.
    """
    if name not in ATTACKS:
        raise InputError(f"unknown attack {name!r}; known: {', '.join(ATTACKS)}")
    entry = ATTACKS[name]
    try:
        return entry.attack(name=name, **{**entry.usual, **settings})
    except TypeError as error:
        raise InputError(f"attack {name!r}: {error}") from error


def settings_of(name: str, offered: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of the settings offered that an attack has.

    Args:
        name: One of `ATTACKS`.
        offered: Values by the names of fields; those of other attacks may be among them.

    Raises:
        KeyError: If the name is not known.
    """
    known = {field.name for field in dataclasses.fields(ATTACKS[name].attack)}
    return {setting: value for setting, value in offered.items() if setting in known}
