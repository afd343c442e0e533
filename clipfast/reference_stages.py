"""The choices of a defence's stages in plain PyTorch: gates, objectives and views.

Beside `clipfast.reference` the ground truth of every test. High-noise drift: arXiv 2606.03730. Agreement with
a transformed picture, and the ascent towards it: CSR, arXiv 2601.19210. The mean over views: TTE (Pérez et
al., ICCV Workshops 2021), of embeddings in place of logits.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import CounterattackConfig
from .transforms import Transform, crop_window, gaussian_weights, parse_chain

__all__ = [
    "answer_embedding",
    "ascended",
    "blur",
    "drift_of",
    "gate_measure",
    "goal_of",
    "into_bounds",
    "low_pass",
    "passed_early",
    "passed_embedding",
    "token_agreement",
    "transformed",
    "within",
]

Encoder = Callable[[Tensor], Tensor]  # pixels [N, 3, H, W] in [0, 1] -> embeddings [N, D], not normalised


def drift_of(noisy: Tensor, clean: Tensor) -> Tensor:
    """tau = ||f(x + d0) - f(x)|| / ||f(x)|| of embeddings f(x + d0) and f(x), [N, D]: [N]."""
    return (noisy - clean).norm(dim=1) / clean.norm(dim=1)


def gate_measure(
    encode: Encoder,
    x: Tensor,
    d0: Tensor,
    clean: Tensor,
    config: CounterattackConfig,
    tokens: Encoder | None = None,
) -> Tensor:
    """What the gate holds against its threshold, [N]; clean: f(x).

    tau; at larger noise 1 / (1 + tau); cos(f(x), f(t(x))); or 0. tokens: what is read at config.gate_depth
    (`ImageTower.gate_tokens`), needed with one: their cosine in place of the embeddings', or, with an
    early_threshold, 1 more than it of images that pass early, and the embeddings' of all others.
    """
    if config.gate == "none":
        return x.new_zeros(len(x))
    if config.gate == "drift":
        return drift_of(encode(x + d0), clean)
    if config.gate == "high_noise_drift":
        larger = into_bounds(d0 * (config.gate_noise / config.eps), x)
        return 1 / (1 + drift_of(encode(x + larger), clean))
    beside = within(transformed(x, config.transform))
    if config.gate_depth is None:
        return torch.cosine_similarity(encode(beside), clean, dim=1)
    assert tokens is not None
    shallow = token_agreement(tokens, x, config)
    if config.early_threshold is None:
        return shallow
    deep = torch.cosine_similarity(encode(beside), clean, dim=1)
    return torch.where(shallow >= config.early_threshold, 1 + shallow, deep)


def token_agreement(tokens: Encoder, x: Tensor, config: CounterattackConfig) -> Tensor:
    """The cosine of what `tokens` gives of x and of t(x): [N]."""
    beside = within(transformed(x, config.transform))
    return torch.cosine_similarity(tokens(beside), tokens(x), dim=1)


def passed_early(measure: Tensor, config: CounterattackConfig) -> Tensor:
    """Which images passed at config.early_threshold, by what `gate_measure` gave of them: bool [N]."""
    if config.early_threshold is None:
        return torch.zeros_like(measure, dtype=torch.bool)
    return measure > 1 + config.early_threshold / 2  # other measures are cosines, at most 1 but for rounding


def goal_of(encode: Encoder, x: Tensor, config: CounterattackConfig) -> Tensor | None:
    """f(t(x)), which an ascent goes towards, [N, D]; None where it goes nowhere in particular."""
    if config.objective == "away":
        return None
    return encode(within(transformed(x, config.transform)))


def ascended(moved: Tensor, clean: Tensor, goal: Tensor | None) -> Tensor:
    """What the counterattack ascends, of f(x + d), f(x) and f(t(x)): a sum over images."""
    if goal is None:
        return (moved - clean).square().sum()
    towards, from_here = (torch.cosine_similarity(moved, other, dim=1) for other in (goal, clean))
    return (towards - from_here).sum()


def passed_embedding(
    encode: Encoder,
    x: Tensor,
    config: CounterattackConfig,
    clean: Tensor | None = None,
    early: Tensor | None = None,
) -> Tensor:
    """What pictures that pass are answered from by several embeddings, [N, D].

    clean: f(x), if known. early: which of them passed early, bool [N]; f(x) alone answers these.
    """
    if config.pass_through == "views":
        return answer_embedding(encode, x, config)
    first = encode(x) if clean is None else clean
    second = encode(within(transformed(x, config.transform)))
    if early is not None:
        second = torch.where(early[:, None], first, second)
    return torch.stack([F.normalize(embedding) for embedding in (first, second)]).mean(dim=0)


def answer_embedding(encode: Encoder, x: Tensor, config: CounterattackConfig) -> Tensor:
    """What countered pictures x + delta are answered from, [N, D]: f, or the mean over their views."""
    if not config.views:
        return encode(x)
    seen = torch.stack([F.normalize(encode(within(transformed(x, view)))) for view in config.views])
    mean = seen.mean(dim=0)
    if config.view_weights == "equal":
        return mean
    weights = torch.softmax(10 * torch.cosine_similarity(seen, mean, dim=2), dim=0)
    return (weights[:, :, None] * seen).sum(dim=0)


def transformed(x: Tensor, transform: str) -> Tensor:
    """t(x) of pixels [N, 3, H, W]; see `clipfast.transforms`."""
    first, *others = parse_chain(transform)
    x = _transformed(x, first)
    for other in others:
        x = _transformed(within(x), other)
    return x


def _transformed(x: Tensor, chosen: Transform) -> Tensor:
    size = int(x.shape[-2]), int(x.shape[-1])
    chosen.check_size(size)
    if chosen.name == "mirror":
        return x.flip(-1)
    if chosen.name == "blur":
        return blur(x)
    if chosen.name == "gaussian":
        weights = x.new_tensor(gaussian_weights(chosen.number or 0.0))
        reach = len(weights) // 2
        padded = F.pad(x, (reach,) * 4, mode="replicate")
        kernel = (weights[:, None] * weights).expand(x.shape[1], 1, -1, -1)
        return F.conv2d(padded, kernel, groups=x.shape[1])
    if chosen.name == "low_pass":
        return low_pass(x, chosen.number or 0.0)
    if chosen.name == "crop":
        top, left, height, width = crop_window(chosen, size)
        return F.interpolate(x[..., top : top + height, left : left + width], size, mode="bilinear")
    assert chosen.name == "identity", chosen
    return x


def blur(x: Tensor) -> Tensor:
    """x [N, 3, H, W] under a 3x3 mean filter, edges replicated."""
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel_size=3, stride=1)


def low_pass(x: Tensor, radius: float) -> Tensor:
    """x [N, 3, H, W] without frequencies further than `radius` cycles a picture from 0 (CSR)."""
    rows, columns = (torch.fft.fftfreq(n, device=x.device).mul(n).round() for n in x.shape[-2:])
    kept = rows[:, None] ** 2 + columns**2 <= radius**2
    return torch.fft.ifft2(torch.where(kept, torch.fft.fft2(x), 0)).real


def within(pixels: Tensor) -> Tensor:
    """Pixels clamped to [0, 1], with the gradient of what was given.

    Beyond its bounds clamp has none, and an attacker would not see what is filtered white or black.
    """
    return pixels.clamp(0, 1).detach() + (pixels - pixels.detach())


def into_bounds(d: Tensor, x: Tensor) -> Tensor:
    """The perturbation nearest to d with x + d in [0, 1]: [N, 3, H, W]."""
    return d.clamp(min=-x, max=1 - x)
