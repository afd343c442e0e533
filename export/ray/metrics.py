"""What the endpoint counts, as Prometheus reads it.

The countered share, the changed share and the distribution of drift tell that traffic has shifted: other
pictures, other cameras, an attack, or a model that was swapped. They are no proof of an attack.
"""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from clipfast.prediction import DRIFT_BINS

__all__ = ["Metrics"]

disable_created_metrics()

_SHIFT = "an indicator of shifted traffic, not proof of an attack"


class Metrics:
    """Counts since the gateway started; all go through its one process, however many workers there are."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        self.requests = Counter(
            "clipfast_requests", "Requests to classify, by HTTP status.", ["status"], registry=registry
        )
        self.shed = Counter(
            "clipfast_shed", "Requests refused because the budget of passes was used up.", registry=registry
        )
        self.images = Counter("clipfast_images", "Pictures that were classified.", registry=registry)
        self.countered = Counter(
            "clipfast_countered",
            f"Pictures that were countered; their share of clipfast_images_total is {_SHIFT}.",
            registry=registry,
        )
        self.changed = Counter(
            "clipfast_changed",
            "Pictures to which the defence gave another label than undefended CLIP; "
            f"their share of clipfast_images_total is {_SHIFT}.",
            registry=registry,
        )
        self.drift = Histogram(
            "clipfast_drift",
            f"Drift (no unit) of the pictures that were classified: {_SHIFT}.",
            buckets=[*DRIFT_BINS[1:-1:4]],
            registry=registry,
        )
        self.batch = Histogram(
            "clipfast_batch_size",
            "Pictures in a batch.",
            buckets=[1, 2, 4, 8, 16, 32, 64],
            registry=registry,
        )
        self.outstanding = Gauge(
            "clipfast_outstanding_passes",
            "Encoder passes that the requests in work are expected to cost.",
            registry=registry,
        )
        self.budget = Gauge(
            "clipfast_budget_passes", "Encoder passes that may be outstanding.", registry=registry
        )

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)
