"""The eager reference behind an engine's interface."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Protocol

from torch import Tensor

from ..config import CounterattackConfig
from ..inputs.draws import draw_noise
from ..inputs.noise import Noise
from ..inputs.tensors import as_unit
from ..models.tower import ImageTower
from ..reference import Counterattacked, counterattack_early_return

__all__ = ["DefenceEngine", "ReferenceEngine"]


class DefenceEngine(Protocol):
    """What a defended classifier runs on; `clipfast.defence.engine.Engine` is the fast one.

    Attributes:
        config: Settings of the defence.
        marks_pixels: Whether `run` gives an image with a pixel outside of [0, 1] the drift NaN.
    """

    config: CounterattackConfig
    marks_pixels: bool

    def run(
        self, pixels: Tensor, noise: Noise[Tensor], *,
        with_delta: bool = True, with_clean: bool = False, with_answer: bool = True,
    ) -> Counterattacked:  # fmt: skip
        """Defends a batch of images.

        Args:
            pixels: [N, 3, H, W], uint8 or float32 in [0, 1].
            noise: The noise of the N images, within eps.
            with_delta: Whether the perturbations are asked for.
            with_clean: Whether f(x) is asked for of every image.
            with_answer: Whether the embeddings that countered images are answered from are asked for.
        """
        ...

    def warmup(self, batch_sizes: Iterable[int]) -> None:
        """Does now what the first call of each of these batch sizes would wait for."""
        ...

    def embed(self, pixels: Tensor) -> Tensor:
        """Computes f(x) [N, D] of float32 pixels [N, 3, H, W]."""
        ...

    @property
    def has_exact_gradient(self) -> bool:
        """Whether `embed_with_gradient` is in float32 and costs one pass in each direction."""
        ...

    def embed_with_gradient(self, pixels: Tensor) -> Tensor:
        """Computes f(x) [N, D] of float32 pixels [N, 3, H, W], with its gradient to them."""
        ...


class ReferenceEngine:
    """`clipfast.reference` on a classifier's own towers: eager float32, nothing packed, nothing compiled.

    Args:
        image_tower: The model's image tower.
        config: Settings of the defence.
        drift_tower: The tower that the gate measures with, if it is another one.

    Attributes:
        has_exact_gradient: True.
        marks_pixels: False: pixels are to be checked before.
        config: As given.
    """

    has_exact_gradient = True
    marks_pixels = False

    def __init__(
        self, image_tower: ImageTower, config: CounterattackConfig, drift_tower: ImageTower | None
    ) -> None:
        self.config = config
        self._tower, self._drift_tower = image_tower, drift_tower

    def run(
        self,
        pixels: Tensor,
        noise: Noise[Tensor],
        *,
        with_delta: bool = True,  # noqa: ARG002
        with_clean: bool = False,
        with_answer: bool = True,  # noqa: ARG002
    ) -> Counterattacked:
        """Defends a batch of images.

        Args:
            pixels: [N, 3, H, W], uint8 or float32 in [0, 1].
            noise: The noise of the N images, within eps.
            with_delta: Not read: the perturbations are always given.
            with_clean: Whether to give f(x) of every image. If not, it may be NaN for images that pass.
            with_answer: Not read: all images are always answered.
        """
        x, start = as_unit(pixels), draw_noise(noise, pixels.shape, self.config)
        measuring = self._tower if self._drift_tower is None else self._drift_tower
        result = counterattack_early_return(
            self._tower, x, start, self.config, drift_encode=self._drift_tower,
            tokens=partial(measuring.gate_tokens, config=self.config),
        )  # fmt: skip
        if with_clean and self._drift_tower is not None and self.config.pass_through == "noise":
            passed = ~result.countered
            if passed.any():
                result.clean_embedding[passed] = self._tower(x[passed])
        return result

    def warmup(self, batch_sizes: Iterable[int]) -> None:
        """Does nothing, as no first call waits."""

    def embed(self, pixels: Tensor) -> Tensor:
        """Computes f(x) [N, D] of float32 pixels [N, 3, H, W], with autograd's gradient."""
        return self._tower(pixels)

    def embed_with_gradient(self, pixels: Tensor) -> Tensor:
        """Computes f(x) [N, D] of float32 pixels [N, 3, H, W], with autograd's gradient."""
        return self._tower(pixels)
