"""The operators' door: what their tensors must be, checked once and whatever form they run in."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from ..config import Norm
from ..errors import InputError

__all__ = ["check_ascend", "check_cotangent", "check_drift_gate", "check_perturb", "check_zero_shot_head"]

_LOW = (torch.float16, torch.bfloat16)
_EXACT = (torch.float32, torch.float64)


def check_perturb(
    pixels: Tensor,
    noise: Tensor | None,
    seeds: Tensor | None,
    images: Tensor | None,
    patch: tuple[int, int] | None,
    norm: str,
) -> None:
    """Raises InputError: see `clipfast.ops.perturb`."""
    _check("pixels", pixels, None, (torch.uint8, *_LOW, *_EXACT), pixels)
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        raise InputError(f"perturb: expected pixels [B, 3, H, W], got {list(pixels.shape)}")
    height, width = pixels.shape[2:]
    if patch is not None and not _divides(patch, height, width):
        raise InputError(f"perturb: expected patches that divide {height} x {width} pixels, got {patch}")
    _check_norm("perturb", norm)
    if noise is not None:
        if seeds is not None or images is not None:
            raise InputError("perturb: expected noise, or seeds and images, got both")
        exact = (torch.float64,) if pixels.dtype == torch.float64 else _EXACT
        _check("noise", noise, list(pixels.shape), exact, pixels)
    elif seeds is None or images is None:
        raise InputError("perturb: expected noise, or seeds and images, got neither")
    else:
        for name, tensor in (("seeds", seeds), ("images", images)):
            _check(name, tensor, [pixels.shape[0]], (torch.int64,), pixels)


def check_drift_gate(clean: Tensor, noisy: Tensor, threshold: Tensor) -> None:
    """Raises InputError: see `clipfast.ops.drift_gate`."""
    _check_embeddings("clean", clean)
    _check("noisy", noisy, list(clean.shape), (clean.dtype,), clean)
    exact = _EXACT if clean.dtype == torch.float64 else (torch.float32,)
    one_each = isinstance(threshold, Tensor) and threshold.ndim > 0
    _check("threshold", threshold, [clean.shape[0]] if one_each else [], exact, clean)


def check_cotangent(embedding: Tensor, clean: Tensor) -> None:
    """Raises InputError: see `clipfast.ops.cotangent`."""
    _check_embeddings("clean", clean)
    _check("embedding", embedding, list(clean.shape), (clean.dtype,), clean)


def check_ascend(
    x: Tensor, d: Tensor, gradient: Tensor, total: Tensor | None, scale: Tensor | None, norm: str
) -> None:
    """Raises InputError: see `clipfast.ops.ascend`."""
    _check("x", x, None, _EXACT, x)
    if x.ndim < 2:
        raise InputError(f"ascend: expected x [B, ...], got {list(x.shape)}")
    shape = list(x.shape)
    _check("d", d, shape, (x.dtype,), x)
    _check("gradient", gradient, shape, (x.dtype, *_LOW), x)
    if total is not None:
        _check("total", total, shape, (x.dtype,), x)
    _check_norm("ascend", norm)
    if norm == "l2":
        if scale is None:
            raise InputError("ascend: expected the gradient's scale for norm 'l2', got none")
        _check("scale", scale, shape[:1], (x.dtype,), x)


def check_zero_shot_head(embedding: Tensor, class_weights: Tensor, scale: Tensor) -> None:
    """Raises InputError: see `clipfast.ops.zero_shot_head`."""
    _check_embeddings("embedding", embedding, _EXACT)
    if class_weights.ndim != 2 or class_weights.shape[0] != embedding.shape[1]:
        raise InputError(f"expected class_weights [{embedding.shape[1]}, C], got {list(class_weights.shape)}")
    _check("class_weights", class_weights, None, (embedding.dtype,), embedding)
    _check("scale", scale, [], (embedding.dtype,), embedding)


def _divides(patch: object, height: int, width: int) -> bool:
    match patch:
        case int(rows), int(columns):
            return min(rows, columns) >= 1 and height % rows == 0 and width % columns == 0
    return False


def _check_norm(operator: str, norm: str) -> None:
    if norm not in get_args(Norm):
        raise InputError(f"{operator}: expected norm {' or '.join(map(repr, get_args(Norm)))}, got {norm!r}")


def _check_embeddings(name: str, tensor: Tensor, dtypes: tuple[torch.dtype, ...] = (*_LOW, *_EXACT)) -> None:
    _check(name, tensor, None, dtypes, tensor)
    if tensor.ndim != 2:
        raise InputError(f"expected {name} [B, D], got {list(tensor.shape)}")


def _check(
    name: str, tensor: Tensor, shape: list[int] | None, dtypes: tuple[torch.dtype, ...], beside: Tensor
) -> None:
    if not isinstance(tensor, Tensor):
        raise InputError(f"expected {name} as a tensor, got {type(tensor).__name__}")
    if tensor.dtype not in dtypes:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise InputError(f"expected {name} of {names}, got {tensor.dtype}")
    if shape is not None and list(tensor.shape) != shape:
        raise InputError(f"expected {name} {shape}, got {list(tensor.shape)}")
    if tensor.device != beside.device:
        raise InputError(f"expected {name} on {beside.device}, got {tensor.device}")
    if not tensor.is_contiguous():
        raise InputError(f"expected contiguous {name}, got strides {tensor.stride()} of {list(tensor.shape)}")
