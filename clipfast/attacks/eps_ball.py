"""The l-inf budget: checks of what an attack is given, projection, and rounding to 8 bits within it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError
from ..inputs.rules import check_shape
from ..inputs.tensors import as_unit, check_range

__all__ = ["check_batch", "check_eps", "check_labels", "project", "random_start", "rounded", "to_bytes"]

# A tolerance in grey levels. float32 keeps whole levels to about 1e-5. A budget is held to 1e-6, which is
# 2.6e-4 levels.
_WHOLE = 1e-4


def project(attacked: Tensor, pixels: Tensor, eps: float) -> Tensor:
    """Returns the nearest pixels within eps of `pixels` and within [0, 1].

    Args:
        attacked: float32 [N, 3, H, W], what is projected.
        pixels: float32 [N, 3, H, W] in [0, 1], the centre of the budget.
        eps: The budget per pixel, in [0, 1] pixel units.

    Returns:
        float32 [N, 3, H, W].
    """
    return torch.minimum(torch.maximum(attacked, pixels - eps), pixels + eps).clamp(0, 1)


def random_start(pixels: Tensor, eps: float, generator: torch.Generator | None = None) -> Tensor:
    """Returns pixels + U(-eps, eps), clamped to [0, 1].

    Args:
        pixels: float32 [N, 3, H, W] in [0, 1].
        eps: The budget per pixel, in [0, 1] pixel units.
        generator: A generator on the CPU, where the noise is drawn; None stands for torch's own.

    Returns:
        float32 [N, 3, H, W], on the device of `pixels`.
    """
    noise = torch.empty(pixels.shape).uniform_(-eps, eps, generator=generator)
    return (pixels + noise.to(pixels.device)).clamp(0, 1)


def to_bytes(attacked: Tensor, pixels: Tensor, eps: float) -> Tensor:
    """Returns the nearest 8-bit picture within eps of `pixels`.

    eps need not be a whole number of grey levels. If all pixels are whole grey levels and eps is below
    1/255, the result is the pixels themselves.

    Args:
        attacked: float [N, 3, H, W] in [0, 1].
        pixels: float [N, 3, H, W] in [0, 1].
        eps: The budget per pixel, in [0, 1] pixel units, above 0 and at most 1.

    Returns:
        uint8 [N, 3, H, W].

    Raises:
        InputError: If the shapes differ, if eps is out of its range, or if a pixel has no grey level
            within eps.
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
    """Returns the picture of `to_bytes` as float pixels.

    Args:
        attacked: float [N, 3, H, W] in [0, 1].
        pixels: float [N, 3, H, W] in [0, 1].
        eps: The budget per pixel, in [0, 1] pixel units, above 0 and at most 1.

    Returns:
        float32 [N, 3, H, W] in [0, 1], whole grey levels.

    Raises:
        InputError: For the same reasons as `to_bytes`.
    """
    return as_unit(to_bytes(attacked, pixels, eps))


def check_eps(eps: float) -> float:
    """Checks a budget in [0, 1] pixel units and returns it as a float.

    Raises:
        InputError: If it is not a number above 0 and at most 1.
    """
    # NaN compares false.
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 0 < eps <= 1:
        raise InputError(f"eps is in [0, 1] pixel units and must be above 0 and at most 1, got {eps!r}")
    return float(eps)


def check_batch(pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Checks pixels and labels, and brings them into the form that attacks work on.

    A label beyond the classes passes here; `check_labels` finds it once there are logits.

    Args:
        pixels: [N, 3, H, W], uint8 or float in [0, 1].
        labels: int64 [N], from 0.

    Returns:
        Pixels float32 [N, 3, H, W] in [0, 1], detached and contiguous, and labels int64 [N] on their
        device.

    Raises:
        InputError: If the types, shapes, dtypes or values are others, NaN and infinity among them.
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
    """Checks that labels are classes of logits.

    Args:
        labels: int64, of any number of images.
        logits: [N, C].

    Raises:
        InputError: If the logits are not [N, C], or a label is not below C.
    """
    if logits.ndim != 2:
        raise InputError(f"expected logits [N, C], got {list(logits.shape)}")
    if labels.numel() and int(labels.max()) >= logits.shape[1]:
        raise InputError(f"expected labels below {logits.shape[1]}, the classes, got {int(labels.max())}")
