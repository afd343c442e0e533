"""What runs an exported file: a package, and the class that runs files over it. Needs no torch."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from .base import ArtifactClassifier

__all__ = ["Runtime", "RuntimeName", "imported"]

RuntimeName = Literal["onnxruntime", "openvino", "reference", "torch"]


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """A runtime of a format.

    package: what it is imported from. loader: "module:name" of the `ArtifactClassifier` that runs a file,
    imported when it is asked for. for_checks: never chosen unless it is named.
    """

    name: RuntimeName
    package: str
    loader: str
    for_checks: bool = False

    def is_installed(self) -> bool:
        """Whether its package is there."""
        return importlib.util.find_spec(self.package) is not None

    def classifier(self) -> type[ArtifactClassifier]:
        """The class that runs a file."""
        return imported(self.loader)


def imported(place: str) -> Any:
    """What stands at "module:name"."""
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)
