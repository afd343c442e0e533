"""The attacks by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import InputError
from .attack import Attack
from .gate import GateEvasion
from .library import AutoPGD, Square
from .projected import ProjectedAttack, Targeted
from .retries import Retries

__all__ = ["ADAPTIVE", "TRANSFER", "make"]

_PUBLISHED = {"step_size": 1 / 255, "stops": False}

_MAKERS: dict[str, tuple[Callable[..., Attack], dict[str, Any]]] = {
    "pgd-10": (ProjectedAttack, {"steps": 10, **_PUBLISHED}),
    "pgd-100": (ProjectedAttack, {"steps": 100, **_PUBLISHED}),
    "cw": (ProjectedAttack, {"steps": 100, "loss": "margin", **_PUBLISHED}),
    "apgd-ce": (AutoPGD, {"loss": "cross-entropy", "stops": False}),
    "apgd-dlr": (AutoPGD, {"loss": "dlr", "stops": False}),
    "square": (Square, {}),
    "bpda": (ProjectedAttack, {}),
    "unrolled": (ProjectedAttack, {"through": "unrolled"}),
    "gate": (GateEvasion, {}),
    "targeted": (Targeted, {}),
    "apgd-eot": (AutoPGD, {}),
    "black-box": (Square, {}),
    "retries": (Retries, {}),
}

# Made on the undefended model, and held against every system; there every step is taken, as published.
TRANSFER = ("pgd-10", "pgd-100", "cw", "apgd-ce", "apgd-dlr", "square")
# Made on each system itself.
ADAPTIVE = ("bpda", "unrolled", "gate", "targeted", "apgd-eot", "black-box", "retries")


def make(name: str, **settings: Any) -> Attack:
    """An attack by its name, with other settings where given: fields of its class.

    Raises InputError for another name, and for settings that the attack does not have or allow.
    """
    if name not in _MAKERS:
        raise InputError(f"unknown attack {name!r}; known: {', '.join(_MAKERS)}")
    maker, usual = _MAKERS[name]
    try:
        return maker(name=name, **{**usual, **settings})
    except TypeError as error:
        raise InputError(f"attack {name!r}: {error}") from error
