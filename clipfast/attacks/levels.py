"""Budgets in words: grey levels of 255."""

from __future__ import annotations

import math

from ..errors import InputError

__all__ = ["level", "parse_level"]


def level(eps: float) -> str:
    """'1/255' or '0.5/255' of a budget in [0, 1] pixel units."""
    return f"{eps * 255:g}/255"


def parse_level(text: str) -> float:
    """A budget in [0, 1] pixel units, of '1/255' or '0.004'. Raises InputError for anything else."""
    above, slash, below = text.partition("/")
    try:
        eps = float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError):
        eps = math.nan
    if not 0 < eps <= 1:
        raise InputError(f"expected a budget as 1/255, above 0 and at most 1, got {text!r}")
    return eps
