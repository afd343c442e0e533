"""PGD-10 on a system and what it leaves right, a chunk of pictures at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import pgd
from .system import System

__all__ = [
    "EOT_SAMPLES",
    "PGD_STEPS",
    "PGD_STEP_SIZE",
    "attack_in_chunks",
    "correct",
]

PGD_STEPS = 10
PGD_STEP_SIZE = 1 / 255
EOT_SAMPLES = 4


def attack_in_chunks(
    system: System,
    pixels: Tensor,
    labels: Tensor,
    *,
    eps: float,
    chunk: int = 100,
    seed: int = 0,
    progress: Callable[[], object] | None = None,
) -> Tensor:
    """PGD-10 with true labels against a system itself: adversarial pixels, float32 [N, 3, H, W].

    eps: l-inf budget in [0, 1] pixel units. chunk: how many images are attacked at a time.
    progress: called after each of the ceil(N / chunk) * PGD_STEPS steps.
    """
    return torch.cat(
        [
            pgd(
                system.attackable,
                pixels[i : i + chunk],
                labels[i : i + chunk],
                eps=eps,
                step_size=PGD_STEP_SIZE,
                steps=PGD_STEPS,
                samples=EOT_SAMPLES if system.randomised else 1,
                generator=torch.Generator().manual_seed(seed + i),
                progress=progress,
            )
            for i in range(0, len(pixels), chunk)
        ]
    )


@torch.no_grad()
def correct(
    system: System, pixels: Tensor, labels: Tensor, *, chunk: int = 100, seed: int = 0
) -> NDArray[np.bool_]:
    """Which images a system gets right: bool [N]. seed: of the noise that it draws."""
    parts = [
        system.answer(pixels[i : i + chunk], seed=seed, first_image=i).logits.argmax(dim=1).cpu()
        for i in range(0, len(pixels), chunk)
    ]
    return (torch.cat(parts) == labels.cpu()).numpy()
