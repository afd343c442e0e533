"""An image tower as one function of tensors, which every format traces."""

from __future__ import annotations

from torch import Tensor, nn

from ..encoders import Encoder
from ..inputs.tensors import as_unit

__all__ = ["EncoderGraph"]


class EncoderGraph(nn.Module):
    """An image tower as a module from pixels to embeddings.

    Args:
        encoder: A form of the tower that can be traced and whose weights are not packed.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> tuple[Tensor]:
        """Returns the embeddings f(x), before L2 normalisation.

        Args:
            pixels: [N, 3, H, W], uint8, or float32 in [0, 1].

        Returns:
            A tuple of one tensor, float32 [N, D].
        """
        layout = self.encoder.to_layout(as_unit(pixels))
        return (self.encoder.embed(self.encoder.project(layout)),)
