"""What attackers who know a system leave right."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..attacks import Attack, make
from ..attacks.pgd10 import EOT_SAMPLES, PGD_STEPS, correct
from ..attacks.system import System

__all__ = ["ADAPTIVE_ATTACKS", "attacks_on", "still_right"]

# The way of each attack through a system, in words. Those at a gate do not apply to systems without one.
ADAPTIVE_ATTACKS = {
    "bpda": "through its answer",
    "gate-passed": "past its gate",
    "gate-countered": "on the countered side of its gate",
    "both-branches": "through both branches of its gate",
}


def attacks_on(system: System) -> list[Attack]:
    """Returns those of `ADAPTIVE_ATTACKS` that apply to a system, with few steps each."""
    made = (make(name, steps=PGD_STEPS, samples=EOT_SAMPLES) for name in ADAPTIVE_ATTACKS)
    return [attack for attack in made if attack.applies(system)]


def still_right(
    system: System,
    pixels: Tensor,
    labels: Tensor,
    right: NDArray[np.bool_],
    *,
    eps: float,
    chunk: int,
    seed: int,
    progress: Callable[[float], object],
) -> NDArray[np.bool_]:
    """Returns which images a system gets right under every adaptive attack on it.

    Each attack is made on the images that the attacks before it left right.

    Args:
        system: The system that is attacked.
        pixels: float32 [N, 3, H, W] in [0, 1].
        labels: int64 [N].
        right: bool [N], the images that are attacked.
        eps: The l-inf budget in [0, 1] pixel units.
        chunk: How many images are attacked at a time.
        seed: The seed of attacks and noise.
        progress: Called with the share of all work that is done since the last call.

    Returns:
        bool [N], set only for images that are set in `right`.
    """
    left, attacks = right.copy(), attacks_on(system)
    for attack in attacks:
        chunks = [rows for rows in torch.from_numpy(left.nonzero()[0]).split(chunk) if len(rows)]
        step = 1 / (len(attacks) * attack.ticks * max(1, len(chunks)))
        for rows in chunks:
            x, y = pixels[rows], labels[rows]
            made = attack.run(system, x, y, eps=eps, seed=seed, progress=lambda step=step: progress(step))
            left[rows.numpy()] = correct(system, made.pixels, y, seed=seed)
        if not chunks:
            progress(1 / len(attacks))
    return left
