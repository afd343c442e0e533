"""Attacks in [0, 1] pixel units: projected gradient ascent on the cross-entropy, in l-inf."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["pgd"]


def pgd(
    logits: Callable[[Tensor], Tensor],
    pixels: Tensor,
    labels: Tensor,
    *,
    eps: float,
    step_size: float,
    steps: int,
    samples: int = 1,
    generator: torch.Generator | None = None,
    progress: Callable[[], object] | None = None,
) -> Tensor:
    """Adversarial pixels, float32 [N, 3, H, W], within eps of `pixels` and within [0, 1].

    PGD with a random start (Madry et al., ICLR 2018, section 2.1), untargeted, true labels int64 [N].
    logits: the system attacked, differentiable. samples: gradients averaged in each step (EOT; Athalye et
    al., ICML 2018) where the system draws noise. progress: called after each step.
    """
    start = torch.empty(pixels.shape).uniform_(-eps, eps, generator=generator).to(pixels.device)
    attacked = (pixels + start).clamp(0, 1)
    for _ in range(steps):
        attacked.requires_grad_()
        losses = [F.cross_entropy(logits(attacked), labels, reduction="sum") for _ in range(samples)]
        (gradient,) = torch.autograd.grad(torch.stack(losses).sum(), attacked)
        attacked = attacked.detach() + step_size * gradient.sign()
        attacked = torch.minimum(torch.maximum(attacked, pixels - eps), pixels + eps).clamp(0, 1)
        if progress is not None:
            progress()
    return attacked
