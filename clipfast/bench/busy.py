"""A machine that is shared."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator

__all__ = ["one_core_busy"]

_WORK = "import numpy\na = numpy.random.rand(512, 512)\nwhile True: a @ a"
_SETTLED_AFTER = 2.0  # seconds


@contextlib.contextmanager
def one_core_busy() -> Iterator[None]:
    """Keeps one core busy, the last that this process may run on, by another process of one thread."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    process = subprocess.Popen([sys.executable, "-c", _WORK], env={**os.environ, **threads})
    try:
        os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0))})
        time.sleep(_SETTLED_AFTER)
        yield
    finally:
        process.kill()
        process.wait()
