"""What any defence must beat: changes to the pixels that cost no gradient, and earlier test-time defences.

Of the optimising ones, config gives the l-inf budget, the step size and the number of steps. Signed steps are
the counterattack's, so that they can be held to its settings; `ANTI_ADVERSARY`, `HEDGE` and `ET3` are their
own. logits: float [N, 3, H, W] in [0, 1] -> [N, C], differentiable. sign, create_graph: for attackers only,
as in `clipfast.reference`.
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
    "random_noise",
    "views",
    "within",
]

Logits = Callable[[Tensor], Tensor]
Sign = Callable[[Tensor], Tensor]

# The published code's settings, for CIFAR; the first has no budget but its steps.
ANTI_ADVERSARY = CounterattackConfig(eps=0.3, step_size=0.15, steps=2)
HEDGE = CounterattackConfig(eps=0.031, step_size=0.007, steps=20)


class NormalisedSteps(NamedTuple):
    """Steps of one l2 length within an l-inf budget, both in [0, 1] pixel units.

    eps: per pixel. step_size: an image's, so that a pixel of a small picture moves further.
    """

    eps: float
    step_size: float
    steps: int


# The published code's for CLIP, at 224 pixels.
ET3 = NormalisedSteps(eps=5 / 255, step_size=2.5, steps=2)


def random_noise(pixels: Tensor, *, eps: float, generator: torch.Generator | None = None) -> Tensor:
    """pixels + U(-eps, eps), clamped to [0, 1] (the baseline "RN" of arXiv 2503.03613).

    Differentiable: the clamp passes the gradient, as flat white would have none otherwise.
    """
    noise = torch.empty(pixels.shape).uniform_(-eps, eps, generator=generator)
    return within(pixels + noise.to(pixels.device))


def views(pixels: Tensor) -> Tensor:
    """The ten views of `ensemble`: float [N, 3, H, W] -> [10, N, 3, H, W]. Differentiable.

    The picture, its four corner crops of 7/8 of each side, enlarged to its size (bilinear), and the mirror
    images of these five.
    """
    size = height, width = pixels.shape[-2:]
    h, w = height - height // 8, width - width // 8
    corners = [pixels[..., top:, left:] for top in (0, height - h) for left in (0, width - w)]
    # A mean of pixels leaves [0, 1] by rounding alone.
    crops = [within(F.interpolate(corner[..., :h, :w], size, mode="bilinear")) for corner in corners]
    shown = torch.stack([pixels, *crops])
    return torch.cat([shown, shown.flip(-1)])


def ensemble(logits: Logits, pixels: Tensor) -> Tensor:
    """The mean logits [N, C] over `views`: 10 forward passes. Differentiable.

    Test-time transformation ensembling (TTE; Pérez et al., ICCV Workshops 2021) with its flip, four crops and
    their flips. There, crops come at random from a picture padded by 1/8 of its side; here, from its corners,
    which show as much of it at the largest such shift, without the padding.
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
    """Pixels moved towards the model's own prediction: float [N, 3, H, W]; steps + 1 forward, steps backward.

    Signed steps from 0 down the cross-entropy to the label that is predicted for `pixels` (Alfarra et al.,
    AAAI 2022, algorithm 1), within config's budget and, as is not done there, within [0, 1]. The passes are
    without that which classifies the result. Raises InputError for norm "l2".
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
    """Pixels moved away from all classes at once: float [N, 3, H, W]; steps forward and backward passes.

    Signed steps from `noise`, U(-eps, eps), up the sum of the cross-entropies to every class, which is the
    Kullback-Leibler divergence from the uniform distribution but for factor and constant (hedge defence; Wu
    et al., arXiv 2106.04938), within config's budget and [0, 1]. The passes are without that which classifies
    the result. Raises InputError for norm "l2".
    """

    def surprise(logits: Tensor) -> Tensor:
        return -logits.log_softmax(dim=1).sum()

    return _ascended(surprise, logits, pixels, noise, _linf(config), sign, create_graph)


def energy_lowered(
    logits: Logits, pixels: Tensor, config: NormalisedSteps = ET3, *, create_graph: bool = False
) -> Tensor:
    """Pixels moved to where logits are larger: float [N, 3, H, W]; steps forward and backward passes.

    Steps from 0 along the l2-normalised gradient down the energy -log(sum_c exp(logits_c)) (ET3; Mirza et
    al., arXiv 2603.26984, CVPR 2026), within config's budget and [0, 1], without a gate. The passes are
    without that which classifies the result. From the published code for CLIP: the settings, the model's own
    classes and logits, temperature 1, and that the budget is l-inf; for other models it is l2 there.
    """

    def negative_energy(logits: Tensor) -> Tensor:
        return logits.logsumexp(dim=1).sum()

    start = torch.zeros_like(pixels)
    return _ascended(negative_energy, logits, pixels, start, config, _of_unit_length, create_graph)


def _of_unit_length(gradient: Tensor) -> Tensor:
    """Each image's gradient [N, 3, H, W] over its l2 norm, which is at least 1e-8."""
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
    """pixels + d after steps up the objective, a sum over images of what it makes of their logits.

    direction: of a gradient, what step_size is multiplied with.
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
