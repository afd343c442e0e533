"""What the schedule asks of an image tower."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor, nn

__all__ = ["CPU_CHUNK", "Encoder", "ExplicitEncoder", "PixelEncoder", "Saved"]

# Fits the caches of two cores and still fills their vector units; measured in benchmarks/README.md.
CPU_CHUNK = 8

Saved = tuple[Tensor, ...]  # batch first, so that rows can be gathered


class Encoder(Protocol):
    """An image tower f as a forward pass and its gradient to the pixels, without autograd's graph.

    Pixels and perturbations are held in the tower's own *layout* [N, ...], the same for both. All that
    happens between two passes is elementwise or a sum over an image, and so holds in any layout. `base`
    is the part of f(x + d) that depends on x alone, before it meets d. All of these are float32, or
    float64 of a float64 tower.

    Attributes:
        form: "explicit", "traced" or "autograd".
        dtype: Of the large products' operands.
        patch_size: (P, Q) if the layout is [N, patches, 3 * P * Q]; None if it is [N, 3, H, W] itself.
        chunk: How many images a CPU embeds at a time at most.
        blocks: How many blocks `embed_until` and `embed_from` can run apart; 1 if none.
    """

    form: str
    dtype: torch.dtype
    patch_size: tuple[int, int] | None
    chunk: int
    blocks: int

    def to_layout(self, pixels: Tensor) -> Tensor:
        """Takes pixels [N, 3, H, W] into the layout."""
        ...

    def from_layout(self, state: Tensor) -> Tensor:
        """Takes the layout back to [N, 3, H, W]."""
        ...

    def project(self, x: Tensor) -> Tensor:
        """Computes base [N, ...] of x in the layout."""
        ...

    def embed(self, base: Tensor, d: Tensor | None = None) -> Tensor:
        """Computes f(x + d), or f(x) without d.

        Args:
            base: What `project` gives of x, [N, ...].
            d: A perturbation in the layout, [N, ...].

        Returns:
            The embedding before L2 normalisation, float32 [N, D].
        """
        ...

    def embed_until(self, base: Tensor, depth: int) -> Tensor:
        """Computes the tokens of x after a block.

        Args:
            base: What `project` gives of x, [N, ...].
            depth: The number of that block, from 1 to blocks - 1.

        Returns:
            The tokens, float32 [N, T, W], the class token first.
        """
        ...

    def embed_from(self, tokens: Tensor, depth: int) -> Tensor:
        """Computes f(x), float32 [N, D], of the tokens that `embed_until` gave for that depth."""
        ...

    def forward(self, base: Tensor, d: Tensor) -> tuple[Tensor, Saved]:
        """Computes f(x + d), and saves what `input_gradient` needs.

        Args:
            base: What `project` gives of x, [N, ...].
            d: A perturbation in the layout, [N, ...].

        Returns:
            The embedding, float32 [N, D], and the saved tensors, each with the batch first.
        """
        ...

    def forward_pair(self, base: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Saved]:
        """Computes f(x) and f(x + d) in one batch of twice the size, and saves for the second.

        Args:
            base: What `project` gives of x, [N, ...].
            d: A perturbation in the layout, [N, ...].

        Returns:
            f(x) and f(x + d), float32 [N, D], and what `input_gradient` needs of f(x + d).
        """
        ...

    def prefers_double(self, n: int) -> bool:
        """Returns whether `forward_pair` is faster for n images than `embed` and `forward`."""
        ...

    def input_gradient(self, saved: Saved, cotangent: Tensor) -> Tensor:
        """Takes the cotangent of f(x + d) back to d.

        Args:
            saved: What `forward` or `forward_pair` saved, or rows of it.
            cotangent: The gradient of the embedding, float32 [N, D].

        Returns:
            The gradient of d in the layout, [N, ...], float32 or of the large products' dtype.
        """
        ...


class ExplicitEncoder(Encoder, Protocol):
    """An encoder whose passes are written out, for the kind of visual tower that it knows.

    Args:
        visual: A visual tower that `covers` accepts.
        dtype: Of the large products' operands.
        pack: Whether to re-lay the weights for CPU products.
    """

    def __init__(
        self, visual: nn.Module, *, dtype: torch.dtype = ..., pack: bool = ..., tune: bool | str = ...
    ) -> None: ...

    @staticmethod
    def covers(visual: nn.Module) -> bool:
        """Returns whether the encoder knows every part of a visual tower, and computes it unchanged."""
        ...


class PixelEncoder(ABC):
    """The base of encoders whose layout is [N, 3, H, W] itself and whose double batch is two passes.

    Attributes:
        patch_size: None: the layout is that of the pixels.
        dtype: float32.
    """

    patch_size: tuple[int, int] | None = None
    chunk = CPU_CHUNK
    blocks = 1
    dtype = torch.float32

    def to_layout(self, pixels: Tensor) -> Tensor:
        """Returns pixels [N, 3, H, W] as they are."""
        return pixels

    def from_layout(self, state: Tensor) -> Tensor:
        """Returns pixels [N, 3, H, W] as they are."""
        return state

    def project(self, x: Tensor) -> Tensor:
        """Returns x [N, 3, H, W] as it is."""
        return x

    @abstractmethod
    def embed(self, base: Tensor, d: Tensor | None = None) -> Tensor:
        """Computes f(x + d), or f(x) without d, as `Encoder.embed` says.

        Args:
            base: x, [N, 3, H, W].
            d: A perturbation, [N, 3, H, W], or None.
        """

    def embed_until(self, base: Tensor, depth: int) -> Tensor:
        """Never asked for: there is one block."""
        raise NotImplementedError

    def embed_from(self, tokens: Tensor, depth: int) -> Tensor:
        """Never asked for: there is one block."""
        raise NotImplementedError

    @abstractmethod
    def forward(self, base: Tensor, d: Tensor) -> tuple[Tensor, Saved]:
        """Computes f(x + d), and saves what `input_gradient` needs, as `Encoder.forward` says.

        Args:
            base: x, [N, 3, H, W].
            d: A perturbation, [N, 3, H, W].
        """

    def forward_pair(self, base: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Saved]:
        """Computes f(x) and f(x + d) by two passes, and saves for the second.

        Args:
            base: x, [N, 3, H, W].
            d: A perturbation, [N, 3, H, W].

        Returns:
            f(x) and f(x + d), [N, D], and what `input_gradient` needs of f(x + d).
        """
        return self.embed(base), *self.forward(base, d)

    def prefers_double(self, n: int) -> bool:  # noqa: ARG002
        """Returns False: `forward_pair` makes the two passes one after the other."""
        return False
