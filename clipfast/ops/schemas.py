"""What the operators are to torch: schemas, and the shapes of their results."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["LIBRARY"]

LIBRARY = torch.library.Library("clipfast", "FRAGMENT")

# y [..., out] = x [..., in] @ weight [out, in]^T + bias, float32; the weight dense by rows or by columns.
LIBRARY.define("split_linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")


@torch.library.register_fake("clipfast::split_linear", lib=LIBRARY)
def _split_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: ARG001
    return x.new_empty(*x.shape[:-1], weight.shape[0])
