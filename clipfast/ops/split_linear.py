"""Float32 products out of bfloat16 parts, on CPUs whose tile units (AMX) multiply those."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .registry import declare

__all__ = ["split_linear", "to_blocks"]

_BLOCK = 32


def to_blocks(weight: Tensor) -> Tensor:
    """float32 [out, in] -> [out / 32, in / 32, 32, 32], rounded up and zeros where the weight ends."""
    out, columns = weight.shape
    padded = F.pad(weight, (0, -columns % _BLOCK, 0, -out % _BLOCK))
    return padded.unflatten(1, (-1, _BLOCK)).unflatten(0, (-1, _BLOCK)).transpose(1, 2).contiguous()


def split_linear(x: Tensor, blocks: Tensor, bias: Tensor | None, out: int, *, transposed: bool) -> Tensor:
    """y = x weight^T + bias, as near to it as float32 products come: float32 [..., in] -> [..., out].

    Each number is taken as three of bfloat16, and six of their products are added in float32 (Henry, Tang,
    Heinecke, "Leveraging the bfloat16 artificial intelligence datatype for higher-precision computations",
    ARITH 2019). blocks: `to_blocks` of the weight [out, in]; transposed: of its transpose, so that one copy
    serves a layer and its gradient. bias: [out] or None. An infinity becomes NaN, and NaN stays.

    Raises RuntimeError for tensors that do not fit each other, and where the CPU or the build has no tiles.
    """
    return torch.ops.clipfast.split_linear(x, blocks, bias, out, transposed)


declare(
    "split_linear(Tensor x, Tensor blocks, Tensor? bias, int out, bool transposed) -> Tensor",
    fake=lambda x, _blocks, _bias, out, _transposed: x.new_empty(*x.shape[:-1], out),
    kernels=("cpp",),
)
