"""How the threads of one process wait for each other."""

from __future__ import annotations

import os

__all__ = ["spin_briefly"]

# Rounds that libgomp's threads spin before they sleep; its default is 300,000. Measured in
# benchmarks/README.md.
_SPINS = "10000"


def spin_briefly() -> None:
    """Lets OpenMP's threads wait awake for a moment only, so that they free a shared core for other work.

    Call it before torch is imported, which reads the setting then. It does nothing if the user has set
    GOMP_SPINCOUNT or OMP_WAIT_POLICY.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = _SPINS
