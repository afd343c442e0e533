"""Softmax attention and its gradient, in the form that is fastest for the number of tokens.

Queries come already scaled by head_width ** -0.5. Up to PROBABILITIES_UP_TO tokens the probabilities are
saved. Above, the log-sum-exp of the scores is saved, and the probabilities are computed again from it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..torch_private import flash_attention, flash_attention_backward, softmax_backward
from .base import Saved

__all__ = ["PROBABILITIES_UP_TO", "attend", "attend_saving", "attention_gradient"]

PROBABILITIES_UP_TO = 128


def attend(qkv: Tensor, heads: int, *, flash: bool) -> Tensor:
    """Computes attention.

    Args:
        qkv: Queries, keys and values, [B, T, 3W].
        heads: Number of heads.
        flash: Whether to use PyTorch's CPU flash kernel.

    Returns:
        The attended values, [B, T, W].
    """
    q, k, v = _heads(qkv, heads)
    if flash:
        return _joined(flash_attention(q, k, v, scale=1.0)[0])
    return _joined(torch.softmax(q @ k.mT, -1) @ v)


def attend_saving(qkv: Tensor, heads: int, *, flash: bool) -> tuple[Tensor, Saved]:
    """Computes attention, and saves what `attention_gradient` needs.

    Args:
        qkv: Queries, keys and values, [B, T, 3W].
        heads: Number of heads.
        flash: Whether to use PyTorch's CPU flash kernel, with more than PROBABILITIES_UP_TO tokens.

    Returns:
        The attended values, [B, T, W], and the saved tensors.
    """
    if qkv.shape[1] <= PROBABILITIES_UP_TO:
        q, k, v = (part.contiguous() for part in _heads(qkv, heads))  # [B, H, T, D]
        p = torch.softmax(q @ k.mT, -1)  # [B, H, T, T]
        return _joined(p @ v), (q, k, v, p)
    q, k, v = _heads(qkv, heads)
    if flash:
        out, lse = flash_attention(q, k, v, scale=1.0)
        out = _joined(out)
        return out, (qkv, lse, out) if qkv.dtype == torch.float32 else (qkv, lse)
    scores = _scores(q, k)
    logs = torch.log_softmax(scores, -1)
    # Not torch.logsumexp, which torch.export cannot take for an unknown number of images.
    lse = scores[..., 0] - logs[..., 0]  # [B, H, T]
    return _joined(logs.exp().to(qkv.dtype) @ v), (qkv, lse)


def attention_gradient(saved: Saved, g: Tensor, heads: int) -> Tensor:
    """Takes the gradient of `attend_saving`'s result back to its input.

    Args:
        saved: What `attend_saving` saved.
        g: The gradient of the attended values, [B, T, W].
        heads: Number of heads.

    Returns:
        The gradient of qkv, [B, T, 3W].
    """
    g = g.unflatten(-1, (heads, -1)).transpose(1, 2)  # [B, H, T, D]
    if len(saved) == 3:  # of the flash kernel, whose backward pass is the fastest in float32 alone
        qkv, lse, out = saved
        q, k, v = _heads(qkv, heads)
        out = out.unflatten(-1, (heads, -1)).transpose(1, 2)
        return _joined_parts(flash_attention_backward(g, q, k, v, out, lse, 0.0, False, scale=1.0))
    if len(saved) == 2:
        qkv, lse = saved
        q, k, v = (part.contiguous() for part in _heads(qkv, heads))
        p = (_scores(q, k) - lse[..., None]).exp().to(q.dtype)
    else:
        q, k, v, p = saved
    g = g.contiguous()
    ds = softmax_backward(g @ v.mT, p, -1, p.dtype)
    return _joined_parts((ds @ k, ds.mT @ q, p.mT @ g))


def _scores(q: Tensor, k: Tensor) -> Tensor:
    """The scores q k^T, [B, H, T, T], in float32 at least, as their differences are exponentiated."""
    scores = q @ k.mT
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def _heads(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """[B, T, 3W] -> three of [B, H, T, D]."""
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind()
    return q, k, v


def _joined(x: Tensor) -> Tensor:
    """[B, H, T, D] -> [B, T, W]."""
    return x.transpose(1, 2).flatten(2)


def _joined_parts(parts: tuple[Tensor, ...]) -> Tensor:
    """[B, H, T, D] of q, k and v -> [B, T, 3W]."""
    return torch.stack([part.transpose(1, 2) for part in parts], dim=2).flatten(2)
