"""How far an exported file's answers may be from the reference's.

`sign` is a step function. What is computed before a sign agrees up to rounding, and has limits of that
size. What is computed after a sign has wider limits. The figures in the comments are of the bundled
model, over 400 clean and 400 attacked pictures.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..artifacts.fields import Precision
from ..config import CounterattackConfig

__all__ = ["Limits", "limits_of"]


@dataclass(frozen=True)
class Limits:
    """The limits of one precision.

    Attributes:
        logits: For logits that depend on no sign, and for those of f(x + delta) with the file's own
            delta.
        drift: For the relative difference of drifts. That of drifts below 0.2 is relative to 0.2.
        near: The distance of a drift from the threshold, in the same unit, within which rounding may
            decide the gate.
        gate: For the share of all other images on which the gate may differ.
        countered: For the logits of countered images, on average and of any image.
        strayed: For the share of delta's entries that differ, on average and of any image; in l2 for the
            length of delta's difference over eps. None if so many entries differ that only `displaced` is
            checked.
        displaced: How far delta must at least move the embedding, over what the reference's delta does,
            on average and of any image.
        labels: For the share of images whose label may differ although the reference's two best logits
            are more than `margin` apart.
        margin: The difference of the two best logits beyond which a label is clear.
    """

    logits: float
    drift: float
    near: float
    gate: float
    countered: tuple[float, float]
    strayed: tuple[float, float] | None
    displaced: tuple[float, float]
    labels: float
    margin: float


# The limits of logits are for a logit scale of 100.
_LIMITS: dict[Precision, Limits] = {
    "fp32": Limits(
        # The eager reference differs by 0.9e-4 from its own float64 form, two float32 forms by 1.6e-4.
        logits=2e-4,
        drift=1e-5,
        near=1e-5,
        gate=0.0,
        # Images without a flipped sign agree as if they had passed. 13 flipped entries moved one by 0.09.
        countered=(1e-2, 0.3),
        # 4e-5 on average. With a small drift the gradient is mostly rounding: 1.1e-3 on one image of 800.
        strayed=(1e-3, 5e-3),
        displaced=(0.999, 0.99),
        labels=0.0,
        margin=0.6,
    ),
    "fp16": Limits(
        logits=0.2,  # 0.04
        drift=5e-3,  # 2.8e-3
        near=2e-3,  # 4e-4 where the gate differs
        gate=0.01,
        countered=(1.0, 20.0),  # 0.3 and 7.3
        strayed=None,
        displaced=(0.95, 0.9),  # 1.000 and 0.944
        labels=0.1,  # 0.005
        margin=0.4,
    ),
}


def limits_of(
    precision: Precision, config: CounterattackConfig, logit_scale: float, tolerance: float | None
) -> Limits:
    """Returns the limits for a file.

    The limits of logits are proportional to the logit scale. `countered` and `strayed` grow by a factor
    of 1.7 with each step of the counterattack after the second.

    Args:
        precision: The file's precision.
        config: The file's settings.
        logit_scale: The factor of its logits over cosines.
        tolerance: Replaces the limit `logits`; None keeps it.
    """
    known = _LIMITS[precision]
    # Each further step multiplies earlier differences by 1.6 to 1.9 on average. Measured up to ten steps.
    growth = 1.7 ** max(config.steps - 2, 0)
    mean, worst = known.countered
    scale = logit_scale / 100
    return replace(
        known,
        logits=known.logits * scale if tolerance is None else tolerance,
        countered=(mean * growth * scale, worst * growth * scale),
        strayed=known.strayed and (known.strayed[0] * growth, known.strayed[1] * growth),
        margin=known.margin * scale,
    )
