"""An answer that is no classification."""

from __future__ import annotations

__all__ = ["Refusal", "no_answer"]


class Refusal(Exception):  # noqa: N818
    """A request that gets no classification: an HTTP status, a reason in words, and further headers."""

    def __init__(self, status: int, reason: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = headers or {}


def no_answer() -> Refusal:
    """What a request gets whose batch has no answer, or none in time."""
    return Refusal(503, "no worker gave an answer; try again later", {"Retry-After": "5"})
