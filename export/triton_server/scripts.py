"""For the tests: the scripts of this folder, run as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["without"]

_HERE = Path(__file__).parent
_TESTS = _HERE.parent.parent / "tests"


def without(packages: str, script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a script of this folder where some packages, separated by blanks, cannot be imported."""
    code = f"""
import contextlib, runpy, sys
from absent import absent
sys.argv[0] = {str(_HERE / script)!r}
sys.path.insert(0, {str(_HERE)!r})
with contextlib.ExitStack() as stack:
    for package in {packages.split()}:
        stack.enter_context(absent(package))
    runpy.run_path(sys.argv[0], run_name="__main__")
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_TESTS), *sys.path])}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
    )
