"""`python -m fuzzing TARGET CORPUS [-runs=N ...]`: feeds a reader what atheris makes of a corpus.

Needs `pip install atheris`. A reader may raise the errors that it says and no others: another exception, a
crash or a time-out stops the run, and the input is left where `-artifact_prefix=` says. CORPUS: a folder;
an empty one is filled with small true files first. Options are libFuzzer's.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["clipfast", "PIL"]):
    from .targets import TARGETS


def main() -> None:
    """Runs one target."""
    if len(sys.argv) < 3 or sys.argv[1] not in TARGETS:
        raise SystemExit(f"expected a target of {', '.join(TARGETS)}, and a folder")
    _, name, folder, *options = sys.argv
    target, corpus = TARGETS[name], Path(folder)
    corpus.mkdir(parents=True, exist_ok=True)
    if not any(corpus.iterdir()):
        for i, seed in enumerate(target.seeds()):
            (corpus / f"{i}").write_bytes(seed)
    atheris.Setup([sys.argv[0], *options, folder], target.read)
    atheris.Fuzz()


main()
