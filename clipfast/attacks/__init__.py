"""Attacks in [0, 1] pixel units, within an l-inf budget, on a plain function of pixels or on a defence.

`make` builds an attack by its name. Each is an `Attack`, whose `run` returns adversarial pixels and what
they cost, from a seed.
"""

from .apgd import AutoPGD
from .ascent import pgd
from .attack import Attack, Attacked, Target
from .eps_ball import rounded, to_bytes
from .gate_evasion import GateEvasion
from .losses import Loss
from .projected import ProjectedAttack, Targeted
from .registry import ADAPTIVE, ATTACKS, TRANSFER, make
from .retries import Retries
from .square import Square

__all__ = [
    "ADAPTIVE",
    "ATTACKS",
    "TRANSFER",
    "Attack",
    "Attacked",
    "AutoPGD",
    "GateEvasion",
    "Loss",
    "ProjectedAttack",
    "Retries",
    "Square",
    "Target",
    "Targeted",
    "make",
    "pgd",
    "rounded",
    "to_bytes",
]
