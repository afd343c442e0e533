"""Budgets as text, in grey levels of 255."""

from __future__ import annotations

import math

from ..errors import InputError

__all__ = ["level", "parse_level"]


def level(eps: float) -> str:
    """Formats a budget in [0, 1] pixel units, as '1/255' or '0.5/255'."""
    return f"{eps * 255:g}/255"


def parse_level(text: str) -> float:
    """Reads a budget such as '1/255' or '0.004'.

    Args:
        text: A number, or two numbers with a slash between them.

    Returns:
        The budget in [0, 1] pixel units.

    Raises:
        InputError: If the text is not of this form, or the budget is not above 0 and at most 1.
    """
    above, slash, below = text.partition("/")
    try:
        eps = float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError):
        eps = math.nan
    if not 0 < eps <= 1:
        raise InputError(f"expected a budget as 1/255, above 0 and at most 1, got {text!r}")
    return eps
