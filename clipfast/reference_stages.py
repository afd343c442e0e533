"""The choices of a defence's stages in plain PyTorch: gates, objectives and views.

With `clipfast.reference` it is the ground truth of every test. High-noise drift is of arXiv 2606.03730.
Agreement with a transformed picture, and the ascent towards it, are CSR's, arXiv 2601.19210. The mean
over views is TTE's (Pérez et al., ICCV Workshops 2021), of embeddings in place of logits.
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
    "passed_embedding",
    "token_agreement",
    "transformed",
    "within",
]

Encoder = Callable[[Tensor], Tensor]  # pixels [N, 3, H, W] in [0, 1] -> embeddings [N, D], not normalised


def drift_of(noisy: Tensor, clean: Tensor) -> Tensor:
    """Computes tau = ||f(x + d0) - f(x)|| / ||f(x)|| (TTC, arXiv 2503.03613, section 3).

    Args:
        noisy: f(x + d0), [N, D].
        clean: f(x), [N, D].

    Returns:
        tau, [N].
    """
    return (noisy - clean).norm(dim=1) / clean.norm(dim=1)


def gate_measure(
    encode: Encoder,
    x: Tensor,
    d0: Tensor,
    clean: Tensor,
    config: CounterattackConfig,
    tokens: Encoder | None = None,
) -> Tensor:
    """Computes what the gate compares with its threshold.

    That is tau; at larger noise 1 / (1 + tau); cos(f(x), f(t(x))); or 0, for the gate "none". With a
    gate_depth it is the cosine of tokens; with an early_threshold 1 plus that for images that pass early, and
    the cosine of embeddings for all others.

    Args:
        encode: The tower that the gate measures with, f.
        x: Pixels, [N, 3, H, W] in [0, 1].
        d0: Noise within the budget and the bounds of pixels, [N, 3, H, W].
        clean: f(x), [N, D].
        config: Names the gate and its settings.
        tokens: What the gate reads of x if config.gate_depth is set, `ImageTower.gate_tokens`.

    Returns:
        The measure of each image, [N]. Of the gate "none" it has no gradient.

    Raises:
        InputError: If the gate's transform does not fit the size of the pixels.
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
    """Computes how well the tokens of x and t(x) agree.

    Args:
        tokens: Pixels [N, 3, H, W] -> what the gate reads of them, [N, W] (`ImageTower.gate_tokens`).
        x: Pixels, [N, 3, H, W] in [0, 1].
        config: Has the transform t.

    Returns:
        The cosine of both, [N].
    """
    beside = within(transformed(x, config.transform))
    return torch.cosine_similarity(tokens(beside), tokens(x), dim=1)


def goal_of(encode: Encoder, x: Tensor, config: CounterattackConfig) -> Tensor | None:
    """Computes f(t(x)), which the objective "towards" ascends towards.

    Args:
        encode: The image tower, f.
        x: Pixels, [N, 3, H, W] in [0, 1].
        config: Names the objective and the transform t.

    Returns:
        f(t(x)), [N, D]; None for the objective "away".

    Raises:
        InputError: If the transform does not fit the size of the pixels.
    """
    if config.objective == "away":
        return None
    return encode(within(transformed(x, config.transform)))


def ascended(moved: Tensor, clean: Tensor, goal: Tensor | None) -> Tensor:
    """Computes what the counterattack ascends, summed over images.

    That is ||f(x + d) - f(x)||^2 (TTC), or cos(f(x + d), f(t(x))) - cos(f(x + d), f(x)) (CSR).

    Args:
        moved: f(x + d), [N, D].
        clean: f(x), [N, D].
        goal: f(t(x)), [N, D], or None for TTC's objective.
    """
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
    """Computes what passing images are answered from if it is the mean of several embeddings.

    Args:
        encode: The image tower, f.
        x: Pixels, [N, 3, H, W] in [0, 1].
        config: Has pass_through "views", or "both": the mean of the normalised f(x) and f(t(x)).
        clean: f(x), [N, D], if it is known.
        early: Which images passed early, bool [N]. f(x) alone answers these.

    Returns:
        The mean of the normalised embeddings, [N, D].

    Raises:
        InputError: If a transform does not fit the size of the pixels.
    """
    if config.pass_through == "views":
        return answer_embedding(encode, x, config)
    first = encode(x) if clean is None else clean
    second = encode(within(transformed(x, config.transform)))
    if early is not None:
        second = torch.where(early[:, None], first, second)
    return torch.stack([F.normalize(embedding) for embedding in (first, second)]).mean(dim=0)


def answer_embedding(encode: Encoder, x: Tensor, config: CounterattackConfig) -> Tensor:
    """Computes what countered images are answered from: f, or the mean over their views.

    Args:
        encode: The image tower, f.
        x: The pixels x + delta, [N, 3, H, W] in [0, 1].
        config: Names the views and how they are weighed.

    Returns:
        f(x + delta), or the weighted mean of the views' normalised embeddings, [N, D].

    Raises:
        InputError: If a view does not fit the size of the pixels.
    """
    if not config.views:
        return encode(x)
    seen = torch.stack([F.normalize(encode(within(transformed(x, view)))) for view in config.views])
    mean = seen.mean(dim=0)
    if config.view_weights == "equal":
        return mean
    weights = torch.softmax(10 * torch.cosine_similarity(seen, mean, dim=2), dim=0)
    return (weights[:, :, None] * seen).sum(dim=0)


def transformed(x: Tensor, transform: str) -> Tensor:
    """Computes t(x) of pixels [N, 3, H, W]; of a chain, each transform but the last is clamped to [0, 1].

    Args:
        x: Pixels, [N, 3, H, W] in [0, 1].
        transform: A transform or several in a row, as text; see `clipfast.transforms`.

    Raises:
        InputError: If the transform is unknown, or is a crop that cuts nothing at this size.
    """
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
    """Filters x [N, 3, H, W] by a 3x3 mean, edges replicated."""
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel_size=3, stride=1)


def low_pass(x: Tensor, radius: float) -> Tensor:
    """Removes the frequencies further than `radius` cycles a picture from 0 (CSR, arXiv 2601.19210).

    Args:
        x: Pixels, [N, 3, H, W].
        radius: The largest frequency that is kept, in cycles a picture.
    """
    rows, columns = (torch.fft.fftfreq(n, device=x.device).mul(n).round() for n in x.shape[-2:])
    kept = rows[:, None] ** 2 + columns**2 <= radius**2
    return torch.fft.ifft2(torch.where(kept, torch.fft.fft2(x), 0)).real


def within(pixels: Tensor) -> Tensor:
    """Clamps pixels to [0, 1], and passes on the gradient as if they were not clamped.

    A clamp has no gradient outside of its bounds, so that an attacker would not see what a filter made
    white or black.
    """
    return pixels.clamp(0, 1).detach() + (pixels - pixels.detach())


def into_bounds(d: Tensor, x: Tensor) -> Tensor:
    """Returns the perturbation nearest to d with x + d in [0, 1].

    Args:
        d: A perturbation, [N, 3, H, W].
        x: Pixels, [N, 3, H, W] in [0, 1].
    """
    return d.clamp(min=-x, max=1 - x)
