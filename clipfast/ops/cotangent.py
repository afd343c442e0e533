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
    """Computes the direction (f - f0) / ||f - f0|| and its scale 2 ||f - f0||.

    Their product is the gradient of ||f - f0||^2 to f. The direction alone gives the same signs, and does
    not underflow in low precision. If f equals f0 the direction is 0, and the scale a tiny positive
    number.

    Args:
        embedding: f = f(x + d), [B, D], float16, bfloat16 or float32.
        clean: f0 = f(x), [B, D], of the same dtype.
        implementation: Of the operator, see `clipfast.ops`.

    Returns:
        The direction, float32 [B, D], and the scale, float32 [B].

    Raises:
        InputError: If a tensor does not fit, or a named implementation is not available.
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
