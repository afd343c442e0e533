"""A copy of what the package is built from."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]


def copy_sources(to: Path) -> Path:
    """As in a fresh clone: nothing built."""
    for name in ("clipfast", "csrc", "tools"):
        shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, to)
    return to
