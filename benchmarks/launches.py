"""GPU kernels that a step of the counterattack launches between two passes: `python benchmarks/launches.py`.

The encoder is a stand-in that launches nothing, so that what is counted is the schedule's own.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from clipfast import CounterattackConfig
from clipfast.defence import schedule
from clipfast.defence.counterattack import counterattack
from clipfast.encoders import Encoder, Saved
from clipfast.ops import Implementation

BATCH, STEPS = 8, 3


class Still:
    """An encoder whose results are there already."""

    def __init__(self, gradient: Tensor, embedding: Tensor) -> None:
        self.gradient, self.embedding = gradient, embedding

    def forward(self, base: Tensor, d: Tensor) -> tuple[Tensor, Saved]:  # noqa: ARG002
        """The embedding that it was made with."""
        return self.embedding, ()

    def input_gradient(self, saved: Saved, cotangent: Tensor) -> Tensor:  # noqa: ARG002
        """The gradient that it was made with."""
        return self.gradient


def launches(norm: str, implementation: Implementation) -> float:
    """Kernels a step."""
    x, d, gradient = torch.rand(3, BATCH, 49, 3072, device="cuda")
    clean, noisy = torch.rand(2, BATCH, 512, device="cuda")
    probed = schedule.Probe(x, x, d, clean, noisy, ())
    encoder = cast(Encoder, Still(gradient, noisy))
    config = CounterattackConfig(steps=STEPS, norm="l2" if norm == "l2" else "linf")
    counterattack(encoder, probed, config, implementation)  # compiles
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        counterattack(encoder, probed, config, implementation)
        torch.cuda.synchronize()
    kernels = [e for e in profiled.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    return len(kernels) / STEPS


if __name__ == "__main__":
    for norm in ("linf", "l2"):
        for implementation in ("naive", "triton"):
            print(f"{norm} {implementation}: {launches(norm, implementation):.1f} kernels a step")
