"""Projected gradient ascent, once: every gradient attack here is this loop with another gradient or step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .eps_ball import check_labels, project, random_start
from .losses import Loss, RowLoss, by_label, loss_function

__all__ = [
    "Ascended",
    "Look",
    "Looked",
    "Step",
    "ascend",
    "averaged",
    "look_through",
    "pgd",
    "signed_steps",
    "step_sizes",
    "streak_of",
]

_DRAWS = 8


class Looked(NamedTuple):
    """What an attacker learns of n images from one sample of the system's noise."""

    gradient: Tensor  # [n, 3, H, W], the direction to go
    loss: Tensor  # [n], higher is better for the attacker
    broken: Tensor  # bool [n]: misclassified


# Pixels [n, 3, H, W] of the images rows [n] among all; a row may come several times, each with its own noise.
Look = Callable[[Tensor, Tensor], Looked]
# Where pixels [n, 3, H, W] go next, of the images rows [n] that were just looked at.
Step = Callable[[Tensor, Looked, Tensor], Tensor]


class Ascended(NamedTuple):
    """Where an ascent ended."""

    pixels: Tensor  # [N, 3, H, W]
    broken: Tensor  # bool [N]: left, or would have
    loss: Tensor  # [N]: at the last look, averaged over samples


def look_through(logits: Callable[[Tensor], Tensor], labels: Tensor, loss: RowLoss) -> Look:
    """Looks by a loss of a differentiable system's logits. labels: int64 [N], of all images."""

    def look(pixels: Tensor, rows: Tensor) -> Looked:
        x = pixels.detach().requires_grad_()
        z = logits(x)
        check_labels(labels[rows], z)
        losses = loss(z.float(), rows)
        (gradient,) = torch.autograd.grad(losses.sum(), x)
        return Looked(gradient, losses.detach(), z.detach().argmax(dim=1) != labels[rows])

    return look


def averaged(look: Look, samples: int, batch_size: int) -> Look:
    """The mean of several samples' looks (EOT; Athalye et al., ICML 2018); broken is who is in every sample.

    batch_size: images in one call of `look`. Where few are left, one sample of each does not fill an encoder.
    """

    def mean(pixels: Tensor, rows: Tensor) -> Looked:
        n, looks = len(rows), []
        at_once = max(1, batch_size // n)
        for first in range(0, samples, at_once):
            times = min(at_once, samples - first)
            looked = look(pixels.repeat(times, 1, 1, 1), rows.repeat(times))
            looks += [Looked(*one) for one in zip(*(part.split(n) for part in looked), strict=True)]
        if samples == 1:
            return looks[0]
        gradients, losses, broken = (torch.stack(parts) for parts in zip(*looks, strict=True))
        return Looked(gradients.mean(dim=0), losses.mean(dim=0), broken.all(dim=0))

    return mean


def ascend(
    look: Look,
    start: Tensor,
    step: Step,
    *,
    steps: int,
    streak: int = 0,
    final_look: bool = False,
    tick: Callable[[], object] | None = None,
) -> Ascended:
    """So many steps from `start`, float32 [N, 3, H, W], each after a look at the images.

    streak: an image that is broken in so many looks in a row keeps its pixels and leaves the batch; 0: none
    leaves. final_look: looks, and tells `step`, once more after the last step. tick: called after each step.
    """
    attacked, rows = start.clone(), torch.arange(len(start), device=start.device)
    run = torch.zeros(len(start), dtype=torch.int64, device=start.device)
    loss = start.new_full((len(start),), -torch.inf)
    for taken in range(steps + final_look):
        if not len(rows):
            break
        looked = look(attacked[rows], rows)
        run[rows], loss[rows] = (run[rows] + 1) * looked.broken, looked.loss
        moved = step(attacked[rows], looked, rows)
        if taken == steps:
            break
        stays = run[rows] < streak if streak else torch.ones_like(looked.broken)
        rows = rows[stays]
        attacked[rows] = moved[stays]
        if tick is not None:
            tick()
    return Ascended(attacked, run >= streak if streak else torch.zeros_like(run, dtype=torch.bool), loss)


def signed_steps(pixels: Tensor, eps: float, sizes: Sequence[float]) -> Step:
    """Steps of these sizes along the gradient's sign, within eps of all images' pixels and [0, 1]."""
    left = iter(sizes)

    def step(attacked: Tensor, looked: Looked, rows: Tensor) -> Tensor:
        size = next(left, 0.0)  # a final look goes nowhere
        return project(attacked + size * looked.gradient.sign(), pixels[rows], eps)

    return step


def streak_of(samples: int, steps: int, *, randomised: bool) -> int:
    """How many steps in a row an image must be misclassified in, so that it counts as broken.

    One draw of noise that happens to mislead a defence breaks nothing: at least 8 in a row have to, or those
    of all steps.
    """
    return min(math.ceil(_DRAWS / samples), steps) if randomised else 1


def step_sizes(steps: int, eps: float, step_size: float | None = None) -> list[float]:
    """The sizes of an attack's steps, in [0, 1] pixel units: step_size, or eps where that is less.

    None: from eps down in equal parts. Few signed steps have to be large, so as to reach the corners of the
    budget, and the last ones small, so as not to leave a corner again.
    """
    if step_size is None:
        return [eps * (1 - k / steps) for k in range(steps)]
    return [min(step_size, eps)] * steps


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
    loss: Loss = "cross-entropy",
) -> Tensor:
    """Adversarial pixels, float32 [N, 3, H, W], within eps of `pixels` and within [0, 1].

    PGD with a random start (Madry et al., ICLR 2018, section 2.1), untargeted, true labels int64 [N].
    logits: the system attacked, differentiable. samples: gradients averaged in each step (EOT; Athalye et
    al., ICML 2018) where the system draws noise. progress: called after each step. Every image takes every
    step.
    """
    look = look_through(logits, labels, by_label(loss_function(loss), labels))
    start = random_start(pixels, eps, generator)
    step = signed_steps(pixels, eps, [step_size] * steps)
    return ascend(averaged(look, samples, len(pixels)), start, step, steps=steps, tick=progress).pixels
