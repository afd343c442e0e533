"""The Ray cluster that a command runs on. To be imported before Ray is."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

# Ray reads this once, when it is imported. Without it a lone machine's Ray listens on every interface.
if not os.environ.get("RAY_ADDRESS"):
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

import ray

__all__ = ["cluster", "threads_of"]

_OBJECT_STORE = 256 * 2**20


@contextlib.contextmanager
def cluster(cpus: int) -> Iterator[None]:
    """Joins the cluster that RAY_ADDRESS names, or starts one of `cpus` slots, all of it on the loopback.

    Nothing is reported to Ray's makers. Leaves the cluster, and stops the one that it started.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if os.environ.get("RAY_ADDRESS"):
        ray.init()
    else:
        ray.init(
            num_cpus=cpus,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE,
        )
    try:
        yield
    finally:
        ray.shutdown()


def threads_of(workers: int) -> int:
    """Threads for each of several workers of one machine, so that together they do not exceed its cores."""
    return max(1, (os.cpu_count() or 1) // workers)
