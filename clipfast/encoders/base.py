"""What an image tower is to the schedule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor, nn

__all__ = ["Encoder", "ExplicitEncoder", "PixelEncoder", "Saved"]

Saved = tuple[Tensor, ...]  # batch first, so that rows can be gathered


class Encoder(Protocol):
    """f: an image tower as a forward pass and its gradient to the pixels, without autograd's graph.

    Pixels and perturbations are held in the tower's own *layout* [N, ...], the same for both; everything
    between two passes is elementwise or a sum over an image, and so does not care. `base` is what of
    f(x + d) depends on x alone before it meets d. All of them are float32.
    """

    form: str  # "explicit", "traced" or "autograd"
    dtype: torch.dtype  # of the large products' operands
    patch_size: tuple[int, int] | None  # of the layout [N, patches, 3 * P * Q]; None: [N, 3, H, W] itself
    blocks: int  # that can be run apart, by `embed_until` and `embed_from`; 1: none

    def to_layout(self, pixels: Tensor) -> Tensor:
        """[N, 3, H, W] -> layout."""
        ...

    def from_layout(self, state: Tensor) -> Tensor:
        """Layout -> [N, 3, H, W]."""
        ...

    def project(self, x: Tensor) -> Tensor:
        """x in layout -> base [N, ...]."""
        ...

    def embed(self, base: Tensor, d: Tensor | None = None) -> Tensor:
        """f(x + d), or f(x): float32 [N, D], before L2 normalisation."""
        ...

    def embed_until(self, base: Tensor, depth: int) -> Tensor:
        """The tokens of x after block `depth`, from 1 to blocks - 1: float32 [N, T, W], the class's first."""
        ...

    def embed_from(self, tokens: Tensor, depth: int) -> Tensor:
        """f(x) of what `embed_until` gave: float32 [N, D]."""
        ...

    def forward(self, base: Tensor, d: Tensor) -> tuple[Tensor, Saved]:
        """f(x + d), and what `input_gradient` needs."""
        ...

    def forward_pair(self, base: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Saved]:
        """f(x) and f(x + d) in one double batch, and what `input_gradient` needs of the second."""
        ...

    def prefers_double(self, n: int) -> bool:
        """Whether `forward_pair` is faster for n images than `embed` and `forward`."""
        ...

    def input_gradient(self, saved: Saved, cotangent: Tensor) -> Tensor:
        """The cotangent [N, D] of f(x + d) -> that of d, in layout."""
        ...


class ExplicitEncoder(Encoder, Protocol):
    """An encoder whose passes are written out, for the kind of visual tower that it knows."""

    def __init__(self, visual: nn.Module, *, dtype: torch.dtype = ..., pack: bool = ...) -> None: ...

    @staticmethod
    def covers(visual: nn.Module) -> bool:
        """Whether it computes this tower, unchanged: each part is one that it knows, and nothing else."""
        ...


class PixelEncoder(ABC):
    """What encoders share whose layout is [N, 3, H, W] itself and whose double batch is two passes."""

    patch_size: tuple[int, int] | None = None
    blocks = 1
    dtype = torch.float32

    def to_layout(self, pixels: Tensor) -> Tensor:
        """[N, 3, H, W], as it is."""
        return pixels

    def from_layout(self, state: Tensor) -> Tensor:
        """[N, 3, H, W], as it is."""
        return state

    def project(self, x: Tensor) -> Tensor:
        """[N, 3, H, W], as it is."""
        return x

    @abstractmethod
    def embed(self, base: Tensor, d: Tensor | None = None) -> Tensor:
        """See Encoder."""

    def embed_until(self, base: Tensor, depth: int) -> Tensor:
        """Never asked for: there is one block."""
        raise NotImplementedError

    def embed_from(self, tokens: Tensor, depth: int) -> Tensor:
        """Never asked for: there is one block."""
        raise NotImplementedError

    @abstractmethod
    def forward(self, base: Tensor, d: Tensor) -> tuple[Tensor, Saved]:
        """See Encoder."""

    def forward_pair(self, base: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Saved]:
        """f(x), f(x + d), and what `input_gradient` needs of the second."""
        return self.embed(base), *self.forward(base, d)

    def prefers_double(self, n: int) -> bool:  # noqa: ARG002
        """Never: `forward_pair` makes the two passes one after the other."""
        return False
