"""What the operators check of their arguments, once and for whichever form runs."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from ..config import Norm
from ..errors import InputError

__all__ = ["EXACT", "LOW", "check_embeddings", "check_norm", "check_tensor"]

LOW = (torch.float16, torch.bfloat16)
EXACT = (torch.float32, torch.float64)


def check_norm(operator: str, norm: str) -> None:
    """Checks that the operators know a norm.

    Args:
        operator: The operator's name, for the message.
        norm: The norm.

    Raises:
        InputError: If they do not.
    """
    if norm not in get_args(Norm):
        raise InputError(f"{operator}: expected norm {' or '.join(map(repr, get_args(Norm)))}, got {norm!r}")


def check_embeddings(name: str, tensor: Tensor, dtypes: tuple[torch.dtype, ...] = (*LOW, *EXACT)) -> None:
    """Checks that a tensor is contiguous, [B, D], and of one of some dtypes.

    Args:
        name: The tensor's name, for the message.
        tensor: The tensor.
        dtypes: Those allowed.

    Raises:
        InputError: If it is not.
    """
    check_tensor(name, tensor, None, dtypes, tensor)
    if tensor.ndim != 2:
        raise InputError(f"expected {name} [B, D], got {list(tensor.shape)}")


def check_tensor(
    name: str, tensor: Tensor, shape: list[int] | None, dtypes: tuple[torch.dtype, ...], beside: Tensor
) -> None:
    """Checks that a tensor is contiguous, of a shape, of one of some dtypes, and on a device.

    Args:
        name: The tensor's name, for the message.
        tensor: The tensor.
        shape: Its shape; None allows any.
        dtypes: Those allowed.
        beside: A tensor on the device that it must be on.

    Raises:
        InputError: If it is not.
    """
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
