"""Which number formats the large products run in, on which device."""

from __future__ import annotations

import warnings

import torch

from .. import torch_private
from ..errors import InputError

__all__ = ["available", "dtype_of", "resolve"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def available(device: torch.device) -> tuple[str, ...]:
    """Returns the precisions that a device's arithmetic units take, of "fp32", "bf16" and "fp16".

    Raises:
        InputError: If the device is neither a CPU nor a CUDA GPU.
    """
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"expected a model on cpu or cuda, got {device}")
    if device.type == "cuda":
        bf16 = ("bf16",) if torch.cuda.is_bf16_supported(including_emulation=False) else ()
        return ("fp32", *bf16, "fp16")
    try:
        supported = (
            ("bf16", torch_private.has_bf16),
            ("fp16", torch_private.has_fp16),
        )
        return ("fp32", *(name for name, is_supported in supported if is_supported()))
    except (ImportError, RuntimeError):  # a build of PyTorch without oneDNN
        return ("fp32",)


def resolve(precision: str, device: torch.device) -> str:
    """Returns the precision to run in: the one asked for, or "fp32" on a CPU without bfloat16 units.

    That fallback of "bf16" comes with a RuntimeWarning.

    Args:
        precision: "fp32", "bf16" or "fp16".
        device: Where the model is.

    Raises:
        InputError: If the precision is unknown, or the device lacks it; if the device is neither a CPU
            nor a CUDA GPU.
    """
    usable = available(device)
    if precision in usable:
        return precision
    if precision == "bf16" and device.type == "cpu":
        warnings.warn("this CPU has no bfloat16 products: running in fp32", RuntimeWarning, stacklevel=3)
        return "fp32"
    if precision in _DTYPES:
        raise InputError(f"precision {precision!r} is not available on {device}; available: {usable}")
    raise InputError(f"precision must be one of {tuple(_DTYPES)}, got {precision!r}")


def dtype_of(precision: str) -> torch.dtype:
    """Returns the dtype of the large products' operands in a precision: "fp32", "bf16" or "fp16"."""
    return _DTYPES[precision]
