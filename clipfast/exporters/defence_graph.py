"""A defended classifier as one function of tensors, which every format traces."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import ops
from ..artifacts.ports import OutputName
from ..config import CounterattackConfig
from ..defence.schedule import Schedule, defend
from ..defence.transforming import transforms_of
from ..encoders import Encoder
from ..inputs.noise import Noise
from ..inputs.tensors import as_unit

__all__ = ["DefenceGraph"]

_aten = torch.ops.aten


class DefenceGraph(nn.Module):
    """A defended classifier as a module with the inputs of `clipfast.artifacts.ports.ports`.

    Args:
        encoder: The image tower, in a form that can be traced and whose weights are not packed.
        config: The settings of the defence.
        class_weights: float32 [D, C].
        logit_scale: A float32 scalar.
        drift_encoder: The tower that measures drift, in such a form, or None if it is the same tower.
        outputs: The names of the outputs, in order.
        static: Whether to use the masked schedule, in which no shape depends on a value.
        image_size: (height, width) of the pixels.
    """

    def __init__(
        self,
        encoder: Encoder,
        config: CounterattackConfig,
        class_weights: Tensor,
        logit_scale: Tensor,
        *,
        drift_encoder: Encoder | None,
        outputs: tuple[OutputName, ...],
        static: bool,
        image_size: tuple[int, int],
    ) -> None:
        super().__init__()
        self.config, self.static, self.outputs = config, static, outputs
        self.encoder, self.drift_encoder = encoder, drift_encoder
        self.class_weights, self.logit_scale = class_weights, logit_scale
        self.threshold = torch.tensor(config.tau_threshold, device=class_weights.device)
        self.transforms = transforms_of(config, image_size, class_weights.device)

    def forward(
        self, pixels: Tensor, noise: Tensor | None = None, tau_threshold: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Runs the defence.

        Args:
            pixels: [N, 3, H, W], uint8, or float32 in [0, 1].
            noise: The start of the counterattack, float32 [N, 3, H, W] within the config's eps, in [0, 1]
                pixel units. None draws it in the graph.
            tau_threshold: The gate's threshold for each image, float32 [N]. None takes the config's.

        Returns:
            The outputs that were asked for, in order, with the dtypes and shapes of
            `clipfast.artifacts.ports.ports`.
        """
        schedule = Schedule(
            self.encoder,
            self.config,
            self.threshold if tau_threshold is None else tau_threshold,
            drift_encoder=self.drift_encoder,
            implementation="naive",
            transforms=self.transforms,
        )
        start = _drawn(pixels, self.config) if noise is None else noise
        result = defend(schedule, pixels, Noise(start), masked=self.static, with_clean=True)
        # Tracing drops the operators that no output needs.
        made: dict[str, Tensor] = {
            "logits": self._head(result.embedding),
            "undefended_logits": self._head(result.clean_embedding),
            "drift": result.drift,
            "countered": result.countered,
            "delta": result.delta,
            "embedding": result.embedding,
        }
        return tuple(made[name] for name in self.outputs)

    def _head(self, embedding: Tensor) -> Tensor:
        weights, scale = self.class_weights, self.logit_scale
        return ops.zero_shot_head(embedding.contiguous(), weights, scale, implementation="naive")


def _drawn(pixels: Tensor, config: CounterattackConfig) -> Tensor:
    """Noise as TTC starts with, by operators that every format has: float32, shaped as the pixels."""
    like = as_unit(pixels)
    if config.norm == "linf":
        return _aten.uniform(like, -config.eps, config.eps)
    normal = _aten.normal_functional(like)
    radius = config.eps * _aten.uniform(normal.flatten(1)[:, 0], 0.0, 1.0)
    return normal * (radius / normal.flatten(1).norm(dim=1)).reshape(-1, 1, 1, 1)
