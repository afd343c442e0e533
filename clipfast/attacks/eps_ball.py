"""The l-inf budget: what an attack is given, how it stays within it, and what is left of it in 8 bits."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError
from ..inputs.rules import check_shape
from ..inputs.tensors import as_unit, check_range

__all__ = ["check_batch", "check_eps", "check_labels", "project", "random_start", "rounded", "to_bytes"]

# Of one grey level: float32 keeps whole levels to about 1e-5, and a budget is held to 1e-6 = 2.6e-4 levels.
_WHOLE = 1e-4


def project(attacked: Tensor, pixels: Tensor, eps: float) -> Tensor:
    """The nearest pixels within eps of `pixels` and within [0, 1]: float32 [N, 3, H, W]."""
    return torch.minimum(torch.maximum(attacked, pixels - eps), pixels + eps).clamp(0, 1)


def random_start(pixels: Tensor, eps: float, generator: torch.Generator | None = None) -> Tensor:
    """pixels + U(-eps, eps), clamped to [0, 1]."""
    noise = torch.empty(pixels.shape).uniform_(-eps, eps, generator=generator)
    return (pixels + noise.to(pixels.device)).clamp(0, 1)


def to_bytes(attacked: Tensor, pixels: Tensor, eps: float) -> Tensor:
    """The nearest 8-bit picture within eps of `pixels`: uint8 [N, 3, H, W].

    attacked, pixels: float [N, 3, H, W] in [0, 1]. eps need be no whole number of grey levels: of whole
    pixels and a budget below 1/255 nothing but the pixels themselves is left. Raises InputError for shapes
    that differ, a bad eps, and where no grey level lies within eps of a pixel that is none itself.
    """
    check_eps(eps)
    if attacked.shape != pixels.shape:
        shapes = list(attacked.shape), list(pixels.shape)
        raise InputError(f"expected two batches of one shape, got {shapes[0]} and {shapes[1]}")
    x = pixels.double() * 255
    low = (x - eps * 255 - _WHOLE).ceil().clamp(min=0)
    high = (x + eps * 255 + _WHOLE).floor().clamp(max=255)
    if (low > high).any():
        image = int((low > high).flatten(1).any(dim=1).nonzero()[0])
        raise InputError(f"expected a grey level within eps = {eps:g} of every pixel, image {image} has none")
    return torch.minimum(torch.maximum((attacked.double() * 255).round(), low), high).to(torch.uint8)


def rounded(attacked: Tensor, pixels: Tensor, eps: float) -> Tensor:
    """`to_bytes` as pixels again: float32 [N, 3, H, W] in [0, 1]."""
    return as_unit(to_bytes(attacked, pixels, eps))


def check_eps(eps: float) -> float:
    """Raises InputError for a budget that is not above 0 and at most 1."""
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 0 < eps <= 1:  # NaN compares false
        raise InputError(f"eps is in [0, 1] pixel units and must be above 0 and at most 1, got {eps!r}")
    return float(eps)


def check_batch(pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels [N, 3, H, W], uint8 or float in [0, 1], as float32, and labels int64 [N], on one device.

    Raises InputError for anything else, and for labels below 0; those beyond the classes show later.
    """
    if not isinstance(pixels, Tensor) or not isinstance(labels, Tensor):
        raise InputError(f"expected tensors, got {type(pixels).__name__} and {type(labels).__name__}")
    check_shape(pixels.shape, (pixels.shape[-2], pixels.shape[-1]) if pixels.ndim > 1 else (0, 0))
    if pixels.dtype != torch.uint8:
        if not pixels.is_floating_point():
            raise InputError(f"expected uint8 or float pixels, got {pixels.dtype}")
        check_range(pixels)
    if labels.shape != (len(pixels),):
        raise InputError(f"expected labels [{len(pixels)}], got {list(labels.shape)}")
    if labels.dtype != torch.int64:
        raise InputError(f"expected int64 labels, got {labels.dtype}")
    if labels.numel() and labels.min() < 0:
        raise InputError(f"expected labels from 0, got {int(labels.min())}")
    return as_unit(pixels.detach()).float().contiguous(), labels.to(pixels.device)


def check_labels(labels: Tensor, logits: Tensor) -> None:
    """Raises InputError for labels that are no class of logits [N, C]."""
    if logits.ndim != 2:
        raise InputError(f"expected logits [N, C], got {list(logits.shape)}")
    if labels.numel() and int(labels.max()) >= logits.shape[1]:
        raise InputError(f"expected labels below {logits.shape[1]}, the classes, got {int(labels.max())}")
