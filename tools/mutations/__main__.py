"""Does the quick suite notice? `PYTHONPATH=tools python -m mutations [ID ...]`, a minute a mutation.

Each mutation of `mutations.json` is a fault that someone could make, in a line of the package. It is applied
to a copy of the tree, and the test files that it names run there until one fails. Those that survive are said
at the end, with exit code 1. A mutation of `csrc/` is built first.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", "__pycache__", ".*_cache", "build", "runs", "node_modules", "*.egg-info", "demo-out"
)
NATIVE = "clipfast/ops/_native.so"


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """One fault: `new` in the place of `old`, which stands once in `file`; tests: that are to notice."""

    id: str
    area: str
    why: str
    file: str
    old: str
    new: str
    tests: list[str]


def read() -> list[Mutation]:
    """All mutations, in the order of the file."""
    return [
        Mutation(**values) for values in json.loads(Path(__file__).with_name("mutations.json").read_text())
    ]


def killer(mutation: Mutation) -> str | None:
    """The first test that fails under a mutation; None where all pass. RuntimeError: it cannot be made."""
    with tempfile.TemporaryDirectory(prefix=f"{mutation.id}-") as folder:
        copy = Path(folder) / "tree"
        shutil.copytree(ROOT, copy, ignore=LEFT_OUT, symlinks=True)
        path = copy / mutation.file
        text = path.read_text()
        if text.count(mutation.old) != 1:
            raise RuntimeError(f"{mutation.id}: expected its text once in {mutation.file}")
        path.write_text(text.replace(mutation.old, mutation.new))
        if mutation.file.startswith("csrc/"):
            (copy / NATIVE).unlink(missing_ok=True)
            _python(copy, "setup.py", "build_ext", "--inplace")
            if not (copy / NATIVE).exists():
                raise RuntimeError(f"{mutation.id}: it does not compile")
        done = _python(
            copy, "-m", "pytest", "-x", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider", *mutation.tests
        )
        if done.returncode == 0:
            return None
        failed = [
            line.split(" - ")[0] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))
        ]
        return failed[0].partition(" ")[2] if failed else f"pytest's exit code {done.returncode}"


def _python(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    settings = {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=copy, env=os.environ | settings, capture_output=True, text=True
    )


def main(ids: list[str]) -> int:
    """Runs the named mutations, or all, and prints a table; the exit code."""
    table = Table("area", "mutation", "noticed by")
    console = Console()
    chosen = [mutation for mutation in read() if not ids or mutation.id in ids]
    survived = 0
    for mutation in chosen:
        with console.status(f"{mutation.id}: {mutation.why}"):
            found = killer(mutation)
        survived += found is None
        table.add_row(mutation.area, mutation.id, found or "[bold red]nothing[/]")
    console.print(table)
    console.print(f"{len(chosen) - survived} of {len(chosen)} noticed")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
