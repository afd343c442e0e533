"""A runtime of exported files: a package, and the session that loads files into it. Needs no torch."""

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

    Attributes:
        name: The runtime's name.
        package: The package that it is imported from.
        session: "module:name" of the `Session` class that loads a file. It is imported only when it is
            needed.
        for_checks: Whether the runtime is too slow to serve. Such a runtime is used only if it is named.
    """

    name: RuntimeName
    package: str
    session: str
    for_checks: bool = False

    def is_installed(self) -> bool:
        """Returns whether the runtime's package is installed."""
        return importlib.util.find_spec(self.package) is not None

    def load(self, path: Path, **options: Any) -> Session:
        """Loads a file into the runtime.

        Args:
            path: The file.
            **options: Keyword arguments of the session's class.

        Returns:
            The session that has loaded the file.

        Raises:
            ArtifactError: If the session cannot load the file; see its class.
            InputError: If the session does not accept an option's value.
            ModuleNotFoundError: If the runtime's package is not installed.
        """
        made: Session = imported(self.session)(path, **options)
        return made


def imported(place: str) -> Any:
    """Imports the object that a "module:name" text stands for.

    Raises:
        ModuleNotFoundError: If the module, or one that it imports, is not installed.
    """
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)
