"""Which requests are taken in, by the encoder passes that they may cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from clipfast.artifacts.metadata import Metadata
from clipfast.defence.passes import engine_passes
from clipfast.errors import InputError

__all__ = ["Admission", "Cost", "cost"]

# Images over which a share of countered ones is forgotten.
_MEMORY = 64


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What an image costs in encoder passes, forward or backward, by what the gate says of it."""

    passed: int
    countered: int


def cost(metadata: Metadata) -> Cost:
    """The passes of an exported classifier: 2 and 6 with the published settings."""
    passed, countered = (
        sum(
            engine_passes(
                metadata.config,
                images=1,
                countered=n,
                drift_encoder=metadata.drift_weights_sha256 is not None,
                with_clean=True,
            )
        )
        for n in (0, 1)
    )
    return Cost(passed=passed, countered=countered)


class Admission:
    """Keeps the passes that are outstanding within a budget, so that nobody waits longer than it says.

    A request that is countered costs three times one that passes (4F + 2B against 2F), and which it is shows
    only in its answer: the gate and the steps are one graph. A bound on the *number* of requests would
    therefore have to be a third of what it could be, or let an attacker make the queue three times as long
    in time. Charging everyone the worst case is such a bound. So waiting requests are charged what recent
    ones cost: passed + share * (countered - passed), by an estimate of the countered share.

    The estimate starts at 1, rises at once to the share of any batch, and falls slowly (over some 64 images):
    under-charging is what an attacker would aim for. It applies to all that wait, not only to new ones, so
    that a rise closes the door until the queue has drained to the budget at the new price. And a request is
    let in only if the budget would hold it at its worst.

    What remains: a queue filled with requests that pass, just before all turn out to be countered, costs up
    to three times the budget. It takes a crowd that changes its mind within one queue, and does so once, as
    the estimate then stands at 1. `budget / rate` seconds is the promise in steady traffic, three times that
    the bound in any.

    budget: encoder passes; at least the worst case of one request. workers: how many share the work. Not
    safe across threads: one event loop owns it. Raises InputError for a budget that lets nobody in.
    """

    def __init__(self, budget: int, cost: Cost, *, workers: int = 1) -> None:
        if budget < cost.countered:
            raise InputError(f"expected a budget of at least {cost.countered} passes, got {budget}")
        self.budget = budget
        self.waiting = 0
        self._cost = cost
        self._workers = workers
        self._share = 1.0
        self._seconds_a_pass: float | None = None

    @property
    def outstanding(self) -> float:
        """The passes that those who wait are expected to cost."""
        spread = self._cost.countered - self._cost.passed
        return self.waiting * (self._cost.passed + self._share * spread)

    @property
    def full(self) -> bool:
        """Whether the budget would not hold one more request at its worst."""
        return self.outstanding + self._cost.countered > self.budget

    @property
    def retry_after(self) -> int:
        """Seconds until the queue of now is worked off: from 1 to 60."""
        seconds = self.outstanding * (self._seconds_a_pass or 0.0) / self._workers
        return min(60, max(1, math.ceil(seconds)))

    def admit(self) -> bool:
        """Takes one more request in, or says that it must be shed; who is in has to `release`."""
        if self.full:
            return False
        self.waiting += 1
        return True

    def release(self) -> None:
        """One request is done, whatever became of it."""
        self.waiting -= 1

    def observe(self, countered: Sequence[bool], seconds: float) -> None:
        """What the gate said of the images of one batch, at least one, and how long it took one worker."""
        count = len(countered)
        share = sum(countered) / count
        forgotten = self._share + (share - self._share) * count / (count + _MEMORY)
        self._share = max(share, forgotten)
        passes = count * self._cost.passed + sum(countered) * (self._cost.countered - self._cost.passed)
        each = seconds / passes
        previous = each if self._seconds_a_pass is None else self._seconds_a_pass
        self._seconds_a_pass = (previous + each) / 2
