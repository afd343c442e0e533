"""What runs an exported file: a package, and the session that loads files into it. Needs no torch."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from .sessions.session import Session

__all__ = ["Runtime", "RuntimeName", "imported"]

RuntimeName = Literal["onnxruntime", "openvino", "reference", "torch"]


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """A runtime of a format.

    package: what it is imported from. session: "module:name" of the `Session` that loads a file, imported
    when it is asked for. for_checks: too slow to serve; never chosen unless it is named.
    """

    name: RuntimeName
    package: str
    session: str
    for_checks: bool = False

    def is_installed(self) -> bool:
        """Whether its package is there."""
        return importlib.util.find_spec(self.package) is not None

    def load(self, path: Path, **options: Any) -> Session:
        """Loads a file. options: keyword arguments of the session's class."""
        made: Session = imported(self.session)(path, **options)
        return made


def imported(place: str) -> Any:
    """What stands at "module:name"."""
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)
