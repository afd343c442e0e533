"""Random numbers that come from a seed alone, and leave everybody else's alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["fresh_seed", "seeded"]


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds torch's generators (the CPU's and the device's), numpy's and Python's, and restores them after."""
    state, numbers = np.random.get_state(), random.getstate()  # noqa: NPY002
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(state)
            random.setstate(numbers)


def fresh_seed() -> int:
    """A seed for a system's next answer, from torch's generator."""
    return int(torch.randint(2**62, ()))
