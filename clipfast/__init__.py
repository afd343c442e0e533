"""clipfast: a test-time defence of CLIP (TTC, arXiv 2503.03613), fast and deployable."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .config import CounterattackConfig
from .errors import (
    ArtifactError,
    GradientError,
    InputError,
    OutOfMemoryError,
    UncalibratedWarning,
    VerificationError,
    names_extra,
)

if TYPE_CHECKING:
    from .classifier import DefendedClassifier
    from .ops import implementations
    from .prediction import Prediction, Stats

__all__ = [
    "ArtifactError",
    "CounterattackConfig",
    "DefendedClassifier",
    "GradientError",
    "InputError",
    "OutOfMemoryError",
    "Prediction",
    "Stats",
    "UncalibratedWarning",
    "VerificationError",
    "__version__",
    "implementations",
]

# Imported on first use: most of these need torch, and the rest of the package works without it.
_ON_DEMAND = {
    "DefendedClassifier": ".classifier",
    "Prediction": ".prediction",
    "Stats": ".prediction",
    "implementations": ".ops",
}


def __getattr__(name: str) -> Any:
    if name not in _ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(_ON_DEMAND[name], __name__)
    except ModuleNotFoundError as error:
        raise names_extra(f"clipfast.{name}", error) from error
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
