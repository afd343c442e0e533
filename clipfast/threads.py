"""How the threads of one process wait for each other."""

from __future__ import annotations

import os

__all__ = ["spin_briefly"]

# Rounds that libgomp waits before a thread sleeps, else 300,000; benchmarks/README.md has the measurement.
_SPINS = "10000"


def spin_briefly() -> None:
    """Lets OpenMP's threads wait awake for a moment only, so that they leave a shared core to who has work.

    To be called before torch is imported, which reads it then. Leaves alone what the user has set.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = _SPINS
