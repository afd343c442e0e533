"""How a CLIP is trained from scratch: Muon for the matrices of its image tower, AdamW for the rest."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

__all__ = ["Optimisers", "cosine"]


def cosine(step: int, steps: int, *, warmup: int = 0) -> float:
    """The share of the learning rate at a step: a linear start, then half a cosine down to zero."""
    return min(1.0, (step + 1) / max(1, warmup)) * 0.5 * (1 + math.cos(math.pi * step / steps))


class Optimisers:
    """Both optimisers under one schedule, gradients clipped at a norm of 1."""

    def __init__(self, model: nn.Module, *, muon_lr: float, adamw_lr: float, weight_decay: float) -> None:
        named = dict(model.named_parameters())
        matrices = [p for name, p in named.items() if name.startswith("visual.transformer") and p.ndim == 2]
        chosen = {id(p) for p in matrices}
        rest = [p for p in named.values() if id(p) not in chosen]
        self._parameters = list(named.values())
        self._optimisers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=muon_lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, lr=adamw_lr, weight_decay=weight_decay),
        ]
        self._rates = (muon_lr, adamw_lr)

    def step(self, loss: torch.Tensor, share: float) -> None:
        """One step down a loss, with this share of the learning rates."""
        for optimiser, rate in zip(self._optimisers, self._rates, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate * share
            optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        for optimiser in self._optimisers:
            optimiser.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """What `load_state_dict` goes on from."""
        return [optimiser.state_dict() for optimiser in self._optimisers]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Goes on where the states were taken."""
        for optimiser, state in zip(self._optimisers, states, strict=True):
            optimiser.load_state_dict(state)
