"""clipfast: a test-time defence of CLIP (TTC, arXiv 2503.03613), fast and deployable."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .config import CounterattackConfig
from .errors import GradientError, InputError, UncalibratedWarning, names_extra

if TYPE_CHECKING:
    from .classifier import DefendedClassifier
    from .ops import implementations
    from .prediction import Prediction, Stats

__all__ = [
    "CounterattackConfig",
    "DefendedClassifier",
    "GradientError",
    "InputError",
    "Prediction",
    "Stats",
    "UncalibratedWarning",
    "__version__",
    "implementations",
]

# What needs torch is imported when it is first asked for, so that the rest works without it.
_NEEDS_TORCH = {
    "DefendedClassifier": ".classifier",
    "Prediction": ".prediction",
    "Stats": ".prediction",
    "implementations": ".ops",
}


def __getattr__(name: str) -> Any:
    if name not in _NEEDS_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(_NEEDS_TORCH[name], __name__)
    except ModuleNotFoundError as error:
        raise names_extra(f"clipfast.{name}", error) from error
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
