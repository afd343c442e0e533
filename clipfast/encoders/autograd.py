"""Any image tower by autograd: right wherever the tower itself is, and one forward pass dearer."""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.tower import ImageTower
from .base import PixelEncoder, Saved

__all__ = ["AutogradEncoder", "embedding_and_gradient"]


def embedding_and_gradient(tower: ImageTower, pixels: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
    """f(pixels) [N, D], and its cotangent [N, D] taken back to the pixels [N, 3, H, W]."""
    with torch.inference_mode(False), torch.enable_grad():
        # Autograd cannot follow a tensor that was made in inference mode.
        leaf = (pixels.clone() if pixels.is_inference() else pixels.detach()).requires_grad_()
        embedding = tower(leaf)
        (gradient,) = torch.autograd.grad(embedding, leaf, cotangent)
    return embedding.detach(), gradient


class AutogradEncoder(PixelEncoder):
    """The form of `Encoder` of last resort; the layout of pixels is [N, 3, H, W], in the tower's dtype.

    It saves x and d alone, and so `input_gradient` costs a forward pass and a backward pass.
    """

    form = "autograd"

    def __init__(self, tower: ImageTower) -> None:
        self._tower = tower

    @torch.no_grad()
    def embed(self, base: Tensor, d: Tensor | None = None) -> Tensor:
        """f(x + d), or f(x): [N, D]."""
        return self._tower(base if d is None else base + d)

    def forward(self, base: Tensor, d: Tensor) -> tuple[Tensor, Saved]:
        """f(x + d), and x and d."""
        return self.embed(base, d), (base, d)

    def input_gradient(self, saved: Saved, cotangent: Tensor) -> Tensor:
        """The cotangent [N, D] of f(x + d) -> that of d [N, 3, H, W], by a forward and a backward pass."""
        base, d = saved
        return embedding_and_gradient(self._tower, base + d, cotangent)[1]
