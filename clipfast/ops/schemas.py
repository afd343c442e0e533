"""What the operators are to torch: schemas, and the shapes of their results."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["LIBRARY"]

LIBRARY = torch.library.Library("clipfast", "FRAGMENT")

# y [..., out] = x [..., in] @ weight^T + bias, float32: see clipfast.ops.split_linear.
LIBRARY.define("split_linear(Tensor x, Tensor blocks, Tensor? bias, int out, bool transposed) -> Tensor")


@torch.library.register_fake("clipfast::split_linear", lib=LIBRARY)
def _split_linear(x: Tensor, blocks: Tensor, bias: Tensor | None, out: int, transposed: bool) -> Tensor:  # noqa: ARG001
    return x.new_empty(*x.shape[:-1], out)
