"""The defence with gradients, for attackers: how a test-time defence is honestly attacked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ..config import CounterattackConfig
from ..errors import InputError
from ..inputs.draws import draw_noise, seeded, torch_seed
from ..inputs.noise import Noise
from ..inputs.tensors import as_unit, check_noise, check_pixels
from ..models.tower import ImageTower
from ..reference import Counterattacked, counterattack
from ..reference_stages import (
    answer_embedding,
    gate_measure,
    into_bounds,
    passed_embedding,
)
from .reference_engine import DefenceEngine

__all__ = ["DifferentiableDefence", "Mode", "smooth_sign", "twice_differentiable"]

Mode = Literal["bpda", "unrolled", "undefended"]


class DifferentiableDefence(nn.Module):
    """Defended logits as a differentiable function of the pixels.

    `DefendedClassifier.differentiable` makes it. Each call draws noise from torch's generator unless it
    is given some: average over calls for EOT.

    The modes "bpda" and "undefended" run on the engine, and give a gradient once, in float32. If the
    engine has no exact gradient, as in lower precision, the gradient is taken on the model's own tower.

    Args:
        mode: "bpda" (backward pass differentiable approximation; Athalye et al., ICML 2018): gate and
            counterattack are computed and then held constant, so that the gradient is that of f at x +
            delta, or of f at all views of it. "unrolled": the gradient runs through the steps too, each
            sign smoothed as in `smooth_sign`; it needs a double backward pass. "undefended": f alone,
            with no noise and no defence.
        config: Settings of the defence.
        image_tower: The model's image tower.
        drift_tower: The tower that the gate measures with, if it is another one.
        head: Takes embeddings [N, D] to logits [N, C], differentiably.
        engine: Gives the engine that runs the defence; asked at each call, as the engine follows the
            weights.
        smoothing: How smooth the signs of the mode "unrolled" are, as in `smooth_sign`.

    Attributes:
        mode: As given, like the other arguments but `engine`.
        config: As given.
        image_tower: As given.
        drift_tower: As given.
        smoothing: As given.
        head: As given.

    Raises:
        InputError: If there is no such mode.
    """

    def __init__(
        self,
        mode: Mode,
        *,
        config: CounterattackConfig,
        image_tower: ImageTower,
        drift_tower: ImageTower | None,
        head: Callable[[Tensor], Tensor],
        engine: Callable[[], DefenceEngine],
        smoothing: float = 0.1,
    ) -> None:
        super().__init__()
        if mode not in get_args(Mode):
            raise InputError(f"mode must be one of {get_args(Mode)}, got {mode!r}")
        self.mode: Mode = mode
        self.config = config
        self.image_tower = image_tower
        self.drift_tower = drift_tower
        self.smoothing = smoothing
        self.head = head
        self._engine = engine  # asked at each call, as it follows the weights

    def forward(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Computes the defended logits.

        Args:
            pixels: [N, 3, H, W], uint8 or float in [0, 1].
            noise: float [N, 3, H, W] within eps, as for `DefendedClassifier.predict`; drawn if None. The
                mode "undefended" does not read it.

        Returns:
            The logits, float32 [N, C].

        Raises:
            InputError: For bad pixels or noise.
        """
        if self.mode == "undefended":
            return self.head(self.embed(self._pixels(pixels)))
        x, start = self._inputs(pixels, noise)
        if self.mode == "unrolled":
            return self.head(self._unrolled(x, start).embedding)
        if self.config.is_fixed:
            return self.head(self._passing(x))
        return self.head(self._answered(x, self._counter(x.detach(), start)))

    def drift(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Computes what the gate measures, with its gradient: to push an image over the gate.

        With an early_threshold an image passes the gate in two ways. This is the measure of the way that it
        is nearer to: the agreement of embeddings, or tau_threshold plus what the agreement of tokens has
        above early_threshold. An image passes if it is at least tau_threshold.

        Args:
            pixels: [N, 3, H, W], uint8 or float in [0, 1].
            noise: float [N, 3, H, W] within eps; drawn if None.

        Returns:
            The measure of each image, [N]. Of the gate "none" it is 0 and has no gradient.

        Raises:
            InputError: For bad pixels or noise.
        """
        x, start = self._inputs(pixels, noise)
        tower, config = self.embed if self.drift_tower is None else self.drift_tower, self.config
        start, clean, early = into_bounds(start, x), tower(x), config.early_threshold
        if early is None:
            return gate_measure(tower, x, start, clean, config, self._tokens)
        first = dataclasses.replace(config, early_threshold=None, pass_through="clean")
        then = dataclasses.replace(first, gate_depth=None)
        shallow, deep = (gate_measure(tower, x, start, clean, one, self._tokens) for one in (first, then))
        return torch.maximum(deep, shallow - early + config.tau_threshold)

    def embed(self, x: Tensor) -> Tensor:
        """Computes f(x) [N, D] of float32 pixels [N, 3, H, W], with its gradient, in float32."""
        engine = self._engine()
        if not (x.requires_grad and torch.is_grad_enabled()):
            return engine.embed(x)
        # An encoder by autograd would spend one more forward pass.
        return engine.embed_with_gradient(x) if engine.has_exact_gradient else self.image_tower(x)

    def _counter(self, x: Tensor, start: Tensor) -> Counterattacked:
        """What the defence adds to x, and to which images, as constants."""
        with torch.autocast(x.device.type, enabled=False):
            return self._engine().run(x.contiguous(), Noise(start.contiguous()), with_answer=False)

    def _answered(self, x: Tensor, found: Counterattacked) -> Tensor:
        """What images are answered from [N, D]: countered ones by their views, others as they pass."""
        moved = x + found.delta
        if not self.config.views and not self.config.passes_by_several:
            return self.embed(moved)
        rows, others = (chosen.nonzero().flatten() for chosen in (found.countered, ~found.countered))
        parts = []
        if len(rows):
            parts.append(answer_embedding(self.embed, moved[rows], self.config))
        if len(others):
            parts.append(self._passing(moved[others], self.config.passed_early(found.drift)[others]))
        return torch.cat(parts)[torch.cat([rows, others]).argsort()]

    def _passing(self, moved: Tensor, early: Tensor | None = None) -> Tensor:
        if self.config.passes_by_several:
            return passed_embedding(self.embed, moved, self.config, early=early)
        return self.embed(moved)

    def _tokens(self, x: Tensor) -> Tensor:
        """What a gate of some gate_depth reads, with its gradient."""
        tower = self.image_tower if self.drift_tower is None else self.drift_tower
        return tower.gate_tokens(x, self.config)

    def _draw_noise(self, x: Tensor) -> Tensor:
        return draw_noise(seeded(torch_seed(), 0, len(x), x.device), x.shape, self.config)

    def _pixels(self, pixels: Tensor) -> Tensor:
        tower = self.image_tower
        return as_unit(check_pixels(pixels, tower.image_size, on_gpu=True)).to(tower.mean.device)

    def _inputs(self, pixels: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        x = self._pixels(pixels)
        return x, self._draw_noise(x) if noise is None else check_noise(noise, x, self.config)

    def _unrolled(self, x: Tensor, start: Tensor) -> Counterattacked:
        sign = partial(smooth_sign, smoothing=self.smoothing)
        with twice_differentiable():
            return counterattack(
                self.image_tower, x, start, self.config,
                drift_encode=self.drift_tower, tokens=self._tokens, sign=sign, create_graph=True,
            )  # fmt: skip


def smooth_sign(gradient: Tensor, *, smoothing: float = 0.1) -> Tensor:
    """Computes tanh(g / (smoothing * mean |g|)), a sign with a gradient; the mean is over each image.

    Args:
        gradient: g, [N, 3, H, W].
        smoothing: The larger, the smoother.
    """
    scale = gradient.detach().abs().mean(dim=(1, 2, 3), keepdim=True)
    return torch.tanh(gradient / (smoothing * scale + torch.finfo(gradient.dtype).tiny))


def twice_differentiable() -> AbstractContextManager[object]:
    """Returns a context in which attention has a gradient of its gradient.

    The fused kernels lack that on some devices.
    """
    return torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
