"""PGD-10 on a system, and which images it leaves right, a chunk of pictures at a time."""

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
PGD_STEP_SIZE = 1 / 255  # in [0, 1] pixel units
EOT_SAMPLES = 4  # of noise in each step, on a system that draws any


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
    """Attacks images by PGD-10 against a system itself, away from their true labels.

    Args:
        system: The system attacked, through its `attackable`.
        pixels: float32 [N, 3, H, W] in [0, 1]; N at least 1.
        labels: int64 [N], the true labels.
        eps: The l-inf budget, in [0, 1] pixel units.
        chunk: How many images are attacked at a time.
        seed: Of the random starts. The system draws its noise from torch's generator.
        progress: Called after each of the ceil(N / chunk) * PGD_STEPS steps.

    Returns:
        Adversarial pixels float32 [N, 3, H, W].

    Raises:
        InputError: If a label is not below the number of classes.
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
    """Returns which images a system gets right.

    Args:
        system: The system that answers.
        pixels: float [N, 3, H, W] in [0, 1]; N at least 1.
        labels: int64 [N].
        chunk: How many images are answered at a time.
        seed: Of the noise that the system draws.

    Returns:
        bool [N].
    """
    parts = [
        system.answer(pixels[i : i + chunk], seed=seed, first_image=i).logits.argmax(dim=1).cpu()
        for i in range(0, len(pixels), chunk)
    ]
    return (torch.cat(parts) == labels.cpu()).numpy()
