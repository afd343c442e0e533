"""The limits that a file is held to, against the design's."""

from __future__ import annotations

from clipfast import CounterattackConfig
from clipfast.verification.limits import limits_of


def test_float32_is_held_to_the_two_tiers():
    limits = limits_of("fp32", CounterattackConfig(), 100.0, None)
    assert limits.drift == 1e-5
    assert limits.gate == 0
    assert limits.strayed is not None
    assert limits.strayed[0] == 1e-3  # at most 0.1 % of delta's pixels
    longer = limits_of("fp32", CounterattackConfig(steps=4), 100.0, None)
    assert longer.strayed is not None
    assert 1e-3 < longer.strayed[0] < 1e-2
    assert limits_of("fp32", CounterattackConfig(), 10.0, None).logits == limits.logits / 10
    assert limits_of("fp32", CounterattackConfig(), 100.0, 0.5).logits == 0.5
