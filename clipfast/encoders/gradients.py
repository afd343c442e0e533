"""An encoder's embeddings inside autograd, for an attacker's loop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .base import Encoder

__all__ = ["embed_with_gradient"]


def embed_with_gradient(encoder: Encoder, pixels: Tensor) -> Tensor:
    """Computes f(x) with a gradient to the pixels that can be taken once.

    Args:
        encoder: The encoder, f.
        pixels: float32 [N, 3, H, W] in [0, 1].

    Returns:
        f(x), [N, D].
    """
    return _Embedding.apply(pixels, encoder)  # pyright: ignore[reportReturnType]


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pixels: Tensor, encoder: Encoder) -> Tensor:
        with torch.autocast(pixels.device.type, enabled=False):
            x = encoder.to_layout(pixels)
            embedding, saved = encoder.forward(encoder.project(x), torch.zeros_like(x))
        ctx.encoder = encoder
        ctx.save_for_backward(*saved)
        return embedding

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        with torch.autocast(cotangent.device.type, enabled=False):
            gradient = ctx.encoder.input_gradient(ctx.saved_tensors, cotangent.contiguous())
            return ctx.encoder.from_layout(gradient), None
