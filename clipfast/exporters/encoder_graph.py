"""An image tower as one function of tensors, which every format traces."""

from __future__ import annotations

from torch import Tensor, nn

from ..encoders import Encoder
from ..inputs.tensors import as_unit

__all__ = ["EncoderGraph"]


class EncoderGraph(nn.Module):
    """Pixels uint8, or float32 in [0, 1], [N, 3, H, W] -> (embeddings float32 [N, D],), not normalised.

    encoder: an unpacked form, which can be traced.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> tuple[Tensor]:
        """f(x)."""
        layout = self.encoder.to_layout(as_unit(pixels))
        return (self.encoder.embed(self.encoder.project(layout)),)
