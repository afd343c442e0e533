"""The cost model: encoder passes of a batch, by its settings and by how many images were countered."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import GATES, CounterattackConfig

__all__ = ["Passes", "engine_passes"]


@dataclass(frozen=True)
class Passes:
    """Encoder passes an image, on average: forward, backward."""

    forward: float
    backward: float


def engine_passes(
    config: CounterattackConfig,
    *,
    images: int,
    countered: int,
    drift_encoder: bool = False,
    with_clean: bool = False,
) -> tuple[int, int]:
    """Forward and backward passes of a batch in which some images were countered.

    A countered image costs as many of both as there are steps, beyond its probe. The probe is 2 forward
    passes; where the gate reads others first, it is those 2, and then what is not known yet of f(x) and
    f(x + d0) and is needed: of images that pass, only the one that they are answered from; with_clean: f(x)
    of those too.
    """
    passed = images - countered
    forward = 2 * images + config.steps * countered
    if drift_encoder:
        forward += passed + 2 * countered
        if with_clean and config.pass_through == "noise":
            forward += passed
    elif not GATES[config.gate].reads_probe:
        forward += countered + (passed if config.pass_through == "noise" else 0)
    return forward, config.steps * countered
