"""An open_clip model's image tower as a function of pixels in [0, 1]."""

from __future__ import annotations

from typing import Any, cast

import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from ..config import CounterattackConfig
from ..errors import InputError

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

    def gate_tokens(self, pixels: Tensor, config: CounterattackConfig) -> Tensor:
        """Computes what a gate with a gate_depth reads: the class token after a block, or the patches' mean.

        Args:
            pixels: float32 [N, 3, H, W] in [0, 1].
            config: Has gate_depth and gate_tokens.

        Returns:
            float32 [N, W].

        Raises:
            InputError: If the tower has no such block before its last.
        """
        self.check_depth(config)
        assert config.gate_depth is not None
        found = self.model.visual.forward_intermediates(
            (pixels - self.mean) / self.std,
            indices=[config.gate_depth - 1],
            stop_early=True,
            intermediates_only=True,
            output_fmt="NLC",
            output_extra_tokens=True,
        )
        if config.gate_tokens == "class":
            return found["image_intermediates_prefix"][0][:, 0]
        return found["image_intermediates"][0].mean(dim=1)

    @property
    def blocks(self) -> int:
        """The number of blocks of open_clip's vision transformer. 1 for other towers."""
        visual = self.model.visual
        return len(visual.transformer.resblocks) if type(visual) is VisionTransformer else 1

    def check_depth(self, config: CounterattackConfig) -> None:
        """Checks a gate's depth.

        Raises:
            InputError: If the tower has no block of the number config.gate_depth before its last.
        """
        if config.gate_depth is not None and config.gate_depth >= self.blocks:
            visual = self.model.visual
            name = type(getattr(visual, "trunk", visual)).__name__
            raise InputError(
                f"expected a gate_depth below {self.blocks}, the number of blocks of this {name}, got "
                f"{config.gate_depth}; only open_clip's vision transformers are read between blocks"
            )
