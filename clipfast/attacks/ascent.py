"""Projected gradient ascent, the loop of every gradient attack here; gradient and step rule differ."""

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

_DRAWS = 8  # draws of noise in a row in which an image must be misclassified to count as broken


class Looked(NamedTuple):
    """What an attacker learns of n images from one sample of the system's noise.

    Attributes:
        gradient: [n, 3, H, W], the direction to go.
        loss: [n], higher is better for the attacker.
        broken: bool [n], the images that are misclassified.
    """

    gradient: Tensor
    loss: Tensor
    broken: Tensor


# Looks at pixels [n, 3, H, W] of the images with the rows int64 [n] among all. A row may come several
# times, each with its own noise.
Look = Callable[[Tensor, Tensor], Looked]
# Takes the pixels [n, 3, H, W] that were just looked at, what was seen, and the images' rows int64 [n]
# among all; returns where the pixels go next.
Step = Callable[[Tensor, Looked, Tensor], Tensor]


class Ascended(NamedTuple):
    """Where an ascent of N images ended.

    Attributes:
        pixels: [N, 3, H, W].
        broken: bool [N], the images that were broken in as many looks in a row as the ascent's `streak`,
            up to their last look; none if that is 0.
        loss: [N], at each image's last look, averaged over samples; -inf without a look.
    """

    pixels: Tensor
    broken: Tensor
    loss: Tensor


def look_through(logits: Callable[[Tensor], Tensor], labels: Tensor, loss: RowLoss) -> Look:
    """Builds a look from the loss of a differentiable system's logits.

    Args:
        logits: The system: pixels float32 [n, 3, H, W] -> [n, C], differentiable.
        labels: int64 [N], of all images; an image is broken if its largest logit is another.
        loss: The loss whose gradient to the pixels is taken.

    Returns:
        A look, which raises InputError if the logits are not [n, C] or a label is not below C.
    """

    def look(pixels: Tensor, rows: Tensor) -> Looked:
        x = pixels.detach().requires_grad_()
        z = logits(x)
        check_labels(labels[rows], z)
        losses = loss(z.float(), rows)
        (gradient,) = torch.autograd.grad(losses.sum(), x)
        return Looked(gradient, losses.detach(), z.detach().argmax(dim=1) != labels[rows])

    return look


def averaged(look: Look, samples: int, batch_size: int) -> Look:
    """Averages a look over several samples of noise (EOT; Athalye et al., ICML 2018).

    An image is broken if it is broken in every sample. When few images are left, one sample of each does
    not fill an encoder, so several samples share a call.

    Args:
        look: What a single sample shows.
        samples: The number of samples, at least 1.
        batch_size: The number of images in one call of `look`.
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
    """Moves images step by step, each step after a look at them.

    Args:
        look: What is seen of the images before each step.
        start: float32 [N, 3, H, W], where they begin.
        step: Where they go after a look.
        steps: The number of steps.
        streak: An image that is broken in so many looks in a row keeps its pixels and leaves the batch.
            With 0 no image leaves.
        final_look: Whether the images are looked at once more after the last step. `step` is told of it
            too.
        tick: Called after each step.
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
    """Builds steps along the gradient's sign, projected to within eps of the pixels and to within [0, 1].

    Args:
        pixels: float32 [N, 3, H, W] in [0, 1], of all images.
        eps: The budget per pixel, in [0, 1] pixel units.
        sizes: The length of each step, in [0, 1] pixel units. After the last one, pixels stay.

    Returns:
        A step for one ascent: each of its calls uses up one of the sizes.
    """
    left = iter(sizes)

    def step(attacked: Tensor, looked: Looked, rows: Tensor) -> Tensor:
        size = next(left, 0.0)  # after a final look pixels stay
        return project(attacked + size * looked.gradient.sign(), pixels[rows], eps)

    return step


def streak_of(samples: int, steps: int, *, randomised: bool) -> int:
    """Returns in how many steps in a row an image must be misclassified to count as broken.

    One draw of noise that happens to mislead a defence breaks nothing. At least 8 draws in a row have to,
    or those of all steps if there are fewer.

    Args:
        samples: The draws of noise in each step.
        steps: The number of steps.
        randomised: Whether the system draws noise. Otherwise 1 is returned.
    """
    return min(math.ceil(_DRAWS / samples), steps) if randomised else 1


def step_sizes(steps: int, eps: float, step_size: float | None = None) -> list[float]:
    """Returns the sizes of an attack's steps, in [0, 1] pixel units.

    Without a step size, the steps fall from eps in equal parts. The first of a few signed steps have to
    be large to reach the corners of the budget. The last ones have to be small so as not to leave a
    corner again.

    Args:
        steps: The number of steps.
        eps: The budget per pixel, in [0, 1] pixel units.
        step_size: The size of every step, at most eps of it; None for falling sizes.
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
    """Attacks images by PGD with a random start, untargeted (Madry et al., ICLR 2018, section 2.1).

    Every image takes every step.

    Args:
        logits: The system attacked: pixels float32 [N, 3, H, W] -> [N, C], differentiable.
        pixels: float32 [N, 3, H, W] in [0, 1].
        labels: int64 [N], the true labels.
        eps: The budget per pixel, in [0, 1] pixel units.
        step_size: The length of a step, in [0, 1] pixel units.
        steps: The number of steps.
        samples: Gradients averaged in each step (EOT; Athalye et al., ICML 2018), for a system that draws
            noise.
        generator: Draws the random start, on the CPU; None stands for torch's own.
        progress: Called after each step.
        loss: The name of the loss that is ascended.

    Returns:
        Adversarial pixels float32 [N, 3, H, W], within eps of `pixels` and within [0, 1].

    Raises:
        InputError: If the loss is not known, if it is "dlr" and there are fewer than 3 classes, or if a
            label is not below the number of classes.
    """
    look = look_through(logits, labels, by_label(loss_function(loss), labels))
    start = random_start(pixels, eps, generator)
    step = signed_steps(pixels, eps, [step_size] * steps)
    return ascend(averaged(look, samples, len(pixels)), start, step, steps=steps, tick=progress).pixels
