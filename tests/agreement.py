"""An encoder against autograd through the tower that it stands for."""

from __future__ import annotations

import torch
from torch import Tensor

from clipfast.encoders import Encoder
from clipfast.models.tower import ImageTower


def by_autograd(tower: ImageTower, pixels: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
    leaf = pixels.clone().requires_grad_()
    embedding = tower(leaf)
    return embedding.detach(), torch.autograd.grad(embedding, leaf, cotangent)[0]


def draw(tower: ImageTower, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """x, d and a cotangent."""
    dtype = next(tower.parameters()).dtype
    x, d = torch.rand(2, n, 3, *tower.image_size, dtype=dtype)
    return x, 0.02 * d - 0.01, torch.randn_like(tower(x).detach())


def assert_close(ours: Tensor, theirs: Tensor, tolerance: float, what: str) -> None:
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    scale = theirs.abs().max().item()
    assert scale > 0
    error = (ours - theirs).abs().max().item() / scale
    print(f"{what} {error:.1e}", end=" ")
    assert error < tolerance, what


def assert_agrees(encoder: Encoder, tower: ImageTower, n: int, tolerance: float) -> None:
    """An encoder's passes on a batch, and on some of its rows, against autograd through the tower."""
    x, d, cotangent = draw(tower, n)
    clean = by_autograd(tower, x, cotangent)[0]
    noisy, gradient = by_autograd(tower, x + d, cotangent)
    layout, moved = encoder.to_layout(x), encoder.to_layout(d)
    assert torch.equal(encoder.from_layout(layout), x)
    base = encoder.project(layout).detach()
    assert_close(encoder.embed(base), clean, tolerance, "embed")
    assert_close(encoder.embed(base, moved), noisy, tolerance, "embed d")

    embedding, saved = encoder.forward(base, moved)
    assert_close(embedding, noisy, tolerance, "forward")
    assert all(tensor.shape[0] == n for tensor in saved)
    before = [tensor.clone() for tensor in (*saved, cotangent)]
    pulled = encoder.input_gradient(saved, cotangent)
    assert all(torch.equal(a, b) for a, b in zip((*saved, cotangent), before, strict=True))
    assert_close(encoder.from_layout(pulled), gradient, tolerance, "gradient")

    ours_clean, ours_noisy, pair = encoder.forward_pair(base, moved)
    assert_close(ours_clean, clean, tolerance, "pair")
    assert_close(ours_noisy, noisy, tolerance, "pair d")
    rows = torch.tensor([n - 1, 0, n // 2, n - 1])[: n + 1]
    held = tuple(tensor.index_select(0, rows) for tensor in pair)
    some = encoder.from_layout(encoder.input_gradient(held, cotangent[rows]))
    assert_close(some, gradient[rows], tolerance, "rows")
