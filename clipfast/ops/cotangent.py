"""What the ascent sends back through the encoder: the direction away from the clean embedding."""

from __future__ import annotations

import torch
from torch import Tensor

from .arithmetic import exact_dtype
from .checks import check_embeddings, check_tensor
from .dispatch import Implementation, form
from .registry import declare

__all__ = ["cotangent"]


def cotangent(
    embedding: Tensor, clean: Tensor, *, implementation: Implementation = "auto"
) -> tuple[Tensor, Tensor]:
    """(f - f0) / ||f - f0||, and 2 ||f - f0||: float32 [B, D] and [B].

    embedding, clean: f = f(x + d) and f0 = f(x), [B, D]. The product of the two is the gradient of
    ||f - f0||^2 in f; the first alone gives the same signs and does not underflow in low precision. Where
    f equals f0 it is 0, and the second a tiny positive number.
    """
    check_embeddings("clean", clean)
    check_tensor("embedding", embedding, list(clean.shape), (clean.dtype,), clean)
    return form(_OPERATOR, implementation, embedding, clean)(embedding, clean)


def _naive(embedding: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
    exact = exact_dtype(clean)
    difference = embedding.to(exact) - clean.to(exact)
    distance = difference.norm(dim=1).clamp(min=torch.finfo(exact).tiny)
    return difference / distance[:, None], 2 * distance


def _fake(_embedding: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
    dtype = exact_dtype(clean)
    return clean.new_empty(clean.shape, dtype=dtype), clean.new_empty(clean.shape[0], dtype=dtype)


_OPERATOR = declare(
    "cotangent(Tensor embedding, Tensor clean) -> (Tensor cotangent, Tensor scale)",
    fake=_fake,
    naive=_naive,
    kernels=("triton", "cpp"),
)
