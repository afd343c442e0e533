"""Builds a program by the commands that its README names, or fails the test with what they said."""

from __future__ import annotations

import shutil
import subprocess

import pytest

__all__ = ["build"]


def build(*commands: list[object]) -> None:
    """Runs the commands one after the other."""
    for tool, package in (("cmake", "cmake"), ("c++", "g++"), ("make", "make")):
        if shutil.which(tool) is None:
            pytest.fail(f"the C++ program needs {tool}, which is not installed: apt-get install {package}")
    for command in commands:
        result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if result.returncode:
            pytest.fail(f"{command[:2]} failed:\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}")
