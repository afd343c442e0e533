"""An open_clip model's image tower as a function of pixels in [0, 1]."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

__all__ = ["ImageTower"]


class ImageTower(nn.Module):
    """f: pixels float32 [N, 3, H, W] in [0, 1] -> embeddings [N, D] before L2 normalisation.

    The model's own normalisation (`image_mean`, `image_std`) is part of it.

    Args:
        model: An open_clip model.

    Attributes:
        model: As given.
        image_size: (height, width) of the pixels.
        mean: The model's mean of pixels, [3, 1, 1].
        std: The model's standard deviation of pixels, [3, 1, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = cast(Any, model)
        visual = self.model.visual
        size = visual.image_size
        self.image_size: tuple[int, int] = (size, size) if isinstance(size, int) else tuple(size)
        device = next(model.parameters()).device
        for name in ("mean", "std"):
            values = torch.tensor(getattr(visual, f"image_{name}"), device=device)
            self.register_buffer(name, values[:, None, None], persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Computes the embeddings of pixels, float32 [N, 3, H, W] -> [N, D]."""
        return self.model.encode_image((pixels - self.mean) / self.std, normalize=False)
