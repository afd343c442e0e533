"""The zero-shot classifier: from embeddings to logits."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError
from .checks import EXACT, check_embeddings, check_tensor
from .dispatch import Implementation, form
from .registry import declare

__all__ = ["zero_shot_head"]


def zero_shot_head(
    embedding: Tensor, class_weights: Tensor, scale: Tensor, *, implementation: Implementation = "auto"
) -> Tensor:
    """Computes scale * (f / ||f||) @ class_weights (CLIP; Radford et al., ICML 2021).

    ||f|| counts as at least 1e-12.

    Args:
        embedding: f, float32 [B, D].
        class_weights: float32 [D, C].
        scale: float32, a scalar.
        implementation: Of the operator, see `clipfast.ops`.

    Returns:
        The logits, float32 [B, C].

    Raises:
        InputError: If a tensor does not fit, or a named implementation is not available.
    """
    check_embeddings("embedding", embedding, EXACT)
    if class_weights.ndim != 2 or class_weights.shape[0] != embedding.shape[1]:
        raise InputError(f"expected class_weights [{embedding.shape[1]}, C], got {list(class_weights.shape)}")
    check_tensor("class_weights", class_weights, None, (embedding.dtype,), embedding)
    check_tensor("scale", scale, [], (embedding.dtype,), embedding)
    run = form(_OPERATOR, implementation, embedding, class_weights, scale)
    return run(embedding, class_weights, scale)


def _naive(embedding: Tensor, class_weights: Tensor, scale: Tensor) -> Tensor:
    return scale * torch.nn.functional.normalize(embedding, dim=1) @ class_weights


def _fake(embedding: Tensor, class_weights: Tensor, _scale: Tensor) -> Tensor:
    return embedding.new_empty(embedding.shape[0], class_weights.shape[1])


_OPERATOR = declare(
    "zero_shot_head(Tensor embedding, Tensor class_weights, Tensor scale) -> Tensor",
    fake=_fake,
    naive=_naive,
    kernels=("triton", "cpp"),
)
