"""Float32 products out of bfloat16 parts, on CPUs whose tile units (AMX) multiply those."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .registry import declare

__all__ = ["split_linear", "to_blocks"]

_BLOCK = 32


def to_blocks(weight: Tensor) -> Tensor:
    """Lays a weight out in blocks of 32 x 32, for `split_linear`.

    Args:
        weight: float32 [out, in].

    Returns:
        [out / 32, in / 32, 32, 32], both quotients rounded up, with zeros beyond the weight's end.
    """
    out, columns = weight.shape
    padded = F.pad(weight, (0, -columns % _BLOCK, 0, -out % _BLOCK))
    return padded.unflatten(1, (-1, _BLOCK)).unflatten(0, (-1, _BLOCK)).transpose(1, 2).contiguous()


def split_linear(x: Tensor, blocks: Tensor, bias: Tensor | None, out: int, *, transposed: bool) -> Tensor:
    """Computes y = x weight^T + bias, about as exact as a float32 product.

    Each number is split into three of bfloat16, and six of their products are added in float32 (Henry,
    Tang, Heinecke, "Leveraging the bfloat16 artificial intelligence datatype for higher-precision
    computations", ARITH 2019). An infinity becomes NaN, and NaN stays.

    Args:
        x: float32 [..., in].
        blocks: `to_blocks` of the weight [out, in]; if transposed, of its transpose.
        bias: float32 [out], or None.
        out: Width of the result.
        transposed: Whether the blocks are those of the transposed weight, so that one copy serves a layer
            and its gradient.

    Returns:
        y, float32 [..., out].

    Raises:
        RuntimeError: If tensors do not fit each other, or the CPU or the build has no tile units.
    """
    return torch.ops.clipfast.split_linear(x, blocks, bias, out, transposed)


declare(
    "split_linear(Tensor x, Tensor blocks, Tensor? bias, int out, bool transposed) -> Tensor",
    fake=lambda x, _blocks, _bias, out, _transposed: x.new_empty(*x.shape[:-1], out),
    kernels=("cpp",),
)
