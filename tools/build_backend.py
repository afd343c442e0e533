"""setuptools' build backend, which asks for torch only where a C++ compiler could use it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
    "torch_requirement",
]


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """What PEP 517 asks: setuptools' own needs, and torch."""
    return [*build_meta.get_requires_for_build_wheel(config_settings), *_torch()]


def get_requires_for_build_editable(config_settings: dict[str, Any] | None = None) -> list[str]:
    """What PEP 660 asks."""
    return [*build_meta.get_requires_for_build_editable(config_settings), *_torch()]


def torch_requirement() -> str:
    """Which torch the extra `torch` asks for, and so what the C++ operators are built against."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    (requirement,) = (r for r in project["optional-dependencies"]["torch"] if re.match(r"torch\b", r))
    return requirement


def _torch() -> list[str]:
    command = os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++"
    return [torch_requirement()] if shutil.which(shlex.split(command)[0]) else []
