"""What is left of a system by attackers who know it."""

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

# What each goes through, in words. Those of a gate do not apply to a system without one.
ADAPTIVE_ATTACKS = {
    "bpda": "through its answer",
    "gate-passed": "past its gate",
    "gate-countered": "on the countered side of its gate",
    "both-branches": "through both branches of its gate",
}


def attacks_on(system: System) -> list[Attack]:
    """Those of the attacks that apply to a system, with few steps each."""
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
    """Which images are right under every attack on the system itself: bool [N], each of them set in `right`.

    pixels: float32 [N, 3, H, W]. right: bool [N], the images that are attacked; each attack is made on what
    the ones before it left. eps: l-inf budget in [0, 1] pixel units. chunk: images attacked at a time.
    progress: called with the share of all that is done since the last call.
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
