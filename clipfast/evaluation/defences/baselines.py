"""What any defence must beat: pixel changes that cost no gradient, and earlier test-time defences.

Those that optimise take the l-inf budget, the step size and the number of steps from their config. Signed
steps are taken like the counterattack's, so that they can be held to its settings. `ANTI_ADVERSARY`,
`HEDGE` and `ET3` are the published settings of each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...config import CounterattackConfig
from ...errors import InputError
from ...reference_stages import blur, into_bounds, within

__all__ = [
    "ANTI_ADVERSARY",
    "ET3",
    "HEDGE",
    "NormalisedSteps",
    "anti_adversary",
    "blur",
    "energy_lowered",
    "ensemble",
    "hedge",
    "views",
    "within",
]

# pixels float [N, 3, H, W] in [0, 1] -> logits [N, C], differentiable.
Logits = Callable[[Tensor], Tensor]
# gradient [N, 3, H, W] -> its sign, or what an attacker smooths it to.
Sign = Callable[[Tensor], Tensor]

# The published code's settings, for CIFAR. The first has no budget there; its steps add up to 0.3.
ANTI_ADVERSARY = CounterattackConfig(eps=0.3, step_size=0.15, steps=2)
HEDGE = CounterattackConfig(eps=0.031, step_size=0.007, steps=20)


class NormalisedSteps(NamedTuple):
    """Steps of one l2 length within an l-inf budget, both in [0, 1] pixel units.

    Attributes:
        eps: The l-inf budget, per pixel.
        step_size: The l2 length of a step, per image. A pixel of a small picture therefore moves further.
        steps: The number of steps.
    """

    eps: float
    step_size: float
    steps: int


# The published code's for CLIP, at 224 pixels.
ET3 = NormalisedSteps(eps=5 / 255, step_size=2.5, steps=2)


def views(pixels: Tensor) -> Tensor:
    """Returns the ten views of `ensemble`, differentiable.

    These are the picture, its four corner crops of 7/8 of each side, enlarged to its size (bilinear), and
    the mirror images of these five.

    Args:
        pixels: float [N, 3, H, W] in [0, 1].

    Returns:
        float [10, N, 3, H, W].
    """
    size = height, width = pixels.shape[-2:]
    h, w = height - height // 8, width - width // 8
    corners = [pixels[..., top:, left:] for top in (0, height - h) for left in (0, width - w)]
    # Rounding alone may take a mean of pixels out of [0, 1].
    crops = [within(F.interpolate(corner[..., :h, :w], size, mode="bilinear")) for corner in corners]
    shown = torch.stack([pixels, *crops])
    return torch.cat([shown, shown.flip(-1)])


def ensemble(logits: Logits, pixels: Tensor) -> Tensor:
    """Returns the mean logits [N, C] over `views`, which takes 10 forward passes.

    This is test-time transformation ensembling (TTE; Pérez et al., ICCV Workshops 2021) with its flip,
    four crops and their flips. There, crops come at random from a picture padded by 1/8 of its side.
    Here, they come from its corners, which show as much of it at the largest such shift, without the
    padding.

    Args:
        logits: The model.
        pixels: float [N, 3, H, W] in [0, 1].
    """
    return torch.stack([logits(view) for view in views(pixels)]).mean(dim=0)


def anti_adversary(
    logits: Logits,
    pixels: Tensor,
    config: CounterattackConfig,
    *,
    sign: Sign = torch.sign,
    create_graph: bool = False,
) -> Tensor:
    """Moves pixels towards the model's own prediction, in steps + 1 forward and steps backward passes.

    Signed steps go from 0 down the cross-entropy to the label that is predicted for `pixels` (Alfarra et
    al., AAAI 2022, algorithm 1), within config's budget. They also stay within [0, 1], which the paper
    does not ask. The pass that classifies the result is not counted.

    Args:
        logits: The model.
        pixels: float [N, 3, H, W] in [0, 1].
        config: The l-inf budget, the step size and the number of steps.
        sign: For attackers only, as in `clipfast.reference`.
        create_graph: For attackers only, as in `clipfast.reference`.

    Returns:
        float [N, 3, H, W] in [0, 1].

    Raises:
        InputError: If config's norm is "l2".
    """
    with torch.inference_mode(False), torch.no_grad():
        labels = logits(pixels).argmax(dim=1)

    def confidence(logits: Tensor) -> Tensor:
        return -F.cross_entropy(logits, labels, reduction="sum")

    start = torch.zeros_like(pixels)
    return _ascended(confidence, logits, pixels, start, _linf(config), sign, create_graph)


def hedge(
    logits: Logits,
    pixels: Tensor,
    noise: Tensor,
    config: CounterattackConfig,
    *,
    sign: Sign = torch.sign,
    create_graph: bool = False,
) -> Tensor:
    """Moves pixels away from all classes at once, in steps forward and steps backward passes.

    Signed steps go from `noise` up the sum of the cross-entropies to every class, within config's budget
    and [0, 1] (hedge defence; Wu et al., arXiv 2106.04938). Apart from a factor and a constant, that sum
    is the Kullback-Leibler divergence from the uniform distribution. The pass that classifies the result
    is not counted.

    Args:
        logits: The model.
        pixels: float [N, 3, H, W] in [0, 1].
        noise: The start, U(-eps, eps), float [N, 3, H, W].
        config: The l-inf budget, the step size and the number of steps.
        sign: For attackers only, as in `clipfast.reference`.
        create_graph: For attackers only, as in `clipfast.reference`.

    Returns:
        float [N, 3, H, W] in [0, 1].

    Raises:
        InputError: If config's norm is "l2".
    """

    def surprise(logits: Tensor) -> Tensor:
        return -logits.log_softmax(dim=1).sum()

    return _ascended(surprise, logits, pixels, noise, _linf(config), sign, create_graph)


def energy_lowered(
    logits: Logits, pixels: Tensor, config: NormalisedSteps = ET3, *, create_graph: bool = False
) -> Tensor:
    """Moves pixels to where logits are larger, in steps forward and steps backward passes.

    Steps go from 0 along the l2-normalised gradient down the energy -log(sum_c exp(logits_c)), within
    config's budget and [0, 1] (ET3; Mirza et al., arXiv 2603.26984, CVPR 2026). There is no gate. The
    pass that classifies the result is not counted.

    The default settings, the model's own classes and logits, temperature 1 and the l-inf budget are those
    of the published code for CLIP. For other models that code has an l2 budget.

    Args:
        logits: The model.
        pixels: float [N, 3, H, W] in [0, 1].
        config: The budget, the length of a step and the number of steps.
        create_graph: For attackers only, as in `clipfast.reference`.

    Returns:
        float [N, 3, H, W] in [0, 1].
    """

    def negative_energy(logits: Tensor) -> Tensor:
        return logits.logsumexp(dim=1).sum()

    start = torch.zeros_like(pixels)
    return _ascended(negative_energy, logits, pixels, start, config, _of_unit_length, create_graph)


def _of_unit_length(gradient: Tensor) -> Tensor:
    """Returns each image's gradient [N, 3, H, W] over its l2 norm, which is taken as at least 1e-8."""
    return gradient / gradient.flatten(1).norm(dim=1).clamp(min=1e-8)[:, None, None, None]


def _linf(config: CounterattackConfig) -> CounterattackConfig:
    if config.norm != "linf":
        raise InputError(f"expected a budget in norm 'linf', got {config.norm!r}")
    return config


def _ascended(
    objective: Callable[[Tensor], Tensor],
    logits: Logits,
    pixels: Tensor,
    start: Tensor,
    config: CounterattackConfig | NormalisedSteps,
    direction: Callable[[Tensor], Tensor],
    create_graph: bool,
) -> Tensor:
    """Returns pixels + d after steps up the objective, a sum over images of a function of their logits.

    direction: maps a gradient to what step_size is multiplied with.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x = pixels if create_graph else pixels.detach()
        d = into_bounds(start, x)
        for _ in range(config.steps):
            d = d if d.requires_grad else d.requires_grad_()
            (gradient,) = torch.autograd.grad(objective(logits(x + d)), d, create_graph=create_graph)
            d = (d + config.step_size * direction(gradient)).clamp(-config.eps, config.eps)
            d = into_bounds(d, x)
            d = d if create_graph else d.detach()
        return x + d
