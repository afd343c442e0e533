"""Packages as if they were not installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder


class _Absent(MetaPathFinder):
    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, fullname, path=None, target=None):  # noqa: ARG002
        if fullname.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {self.package!r}", name=self.package)


@contextmanager
def absent(package: str, *importers: str) -> Iterator[None]:
    """No `package` can be imported, and its importers are forgotten; afterwards all is as before."""
    kept = {
        name: module
        for name, module in sys.modules.items()
        if name.partition(".")[0] == package or name in importers
    }
    for name in kept:
        del sys.modules[name]
        parent, _, child = name.rpartition(".")
        if parent in sys.modules and hasattr(sys.modules[parent], child):
            delattr(sys.modules[parent], child)
    sys.meta_path.insert(0, finder := _Absent(package))
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        sys.modules.update(kept)  # all of them first: a child may stand before its parent
        for name, module in kept.items():
            parent, _, child = name.rpartition(".")
            if parent in sys.modules:
                setattr(sys.modules[parent], child, module)
