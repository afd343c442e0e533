"""The attacks by name: what there is, what it is called in reports, and with which settings it is made."""

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

    title: in reports. kind: "transfer", made on the undefended model and held against every system; or
    "adaptive", made on each system itself. usual: settings of its class that are not that one's own.
    classes: the fewest that it needs.
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


# As published, every step is taken.
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
    """An attack by its name, with other settings where given: fields of its class.

    Raises InputError for another name, and for settings that the attack does not have or allow.
    """
    if name not in ATTACKS:
        raise InputError(f"unknown attack {name!r}; known: {', '.join(ATTACKS)}")
    entry = ATTACKS[name]
    try:
        return entry.attack(name=name, **{**entry.usual, **settings})
    except TypeError as error:
        raise InputError(f"attack {name!r}: {error}") from error


def settings_of(name: str, offered: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the settings offered that a known attack has."""
    known = {field.name for field in dataclasses.fields(ATTACKS[name].attack)}
    return {setting: value for setting, value in offered.items() if setting in known}
