"""Any image tower by autograd: right wherever the tower itself is, and one forward pass dearer."""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.tower import ImageTower
from .base import PixelEncoder, Saved

__all__ = ["AutogradEncoder", "embedding_and_gradient"]


def embedding_and_gradient(tower: ImageTower, pixels: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
    """Computes f(pixels), and takes a cotangent of it back to the pixels.

    Args:
        tower: The image tower, f.
        pixels: [N, 3, H, W] in [0, 1], in the tower's dtype.
        cotangent: The gradient of the embedding, [N, D].

    Returns:
        f(pixels), [N, D], detached, and the gradient of the pixels, [N, 3, H, W].
    """
    with torch.inference_mode(False), torch.enable_grad():
        # Autograd cannot follow a tensor that was made in inference mode.
        leaf = (pixels.clone() if pixels.is_inference() else pixels.detach()).requires_grad_()
        embedding = tower(leaf)
        (gradient,) = torch.autograd.grad(embedding, leaf, cotangent)
    return embedding.detach(), gradient


class AutogradEncoder(PixelEncoder):
    """The form of `Encoder` of last resort; its layout is [N, 3, H, W], in the tower's dtype.

    It saves x and d alone, so that `input_gradient` costs a forward pass and a backward pass.

    Args:
        tower: The image tower.

    Attributes:
        form: "autograd".
    """

    form = "autograd"

    def __init__(self, tower: ImageTower) -> None:
        self._tower = tower

    @torch.no_grad()
    def embed(self, base: Tensor, d: Tensor | None = None) -> Tensor:
        """Computes f(x + d), or f(x) without d.

        Args:
            base: x, [N, 3, H, W].
            d: A perturbation, [N, 3, H, W].

        Returns:
            The embedding, [N, D].
        """
        return self._tower(base if d is None else base + d)

    def forward(self, base: Tensor, d: Tensor) -> tuple[Tensor, Saved]:
        """Computes f(x + d), and saves x and d.

        Args:
            base: x, [N, 3, H, W].
            d: A perturbation, [N, 3, H, W].

        Returns:
            The embedding, [N, D], and the pair (x, d).
        """
        return self.embed(base, d), (base, d)

    def input_gradient(self, saved: Saved, cotangent: Tensor) -> Tensor:
        """Takes the cotangent of f(x + d) back to d, by a forward and a backward pass.

        Args:
            saved: The pair (x, d).
            cotangent: The gradient of the embedding, [N, D].

        Returns:
            The gradient of d, [N, 3, H, W].
        """
        base, d = saved
        return embedding_and_gradient(self._tower, base + d, cotangent)[1]
