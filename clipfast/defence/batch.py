"""One call of the engine in progress: its answers, and the countered rows that wait for a full chunk."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..inputs.noise import Noise
from ..reference import Counterattacked
from .counterattack import Probe
from .rows import joined, mapped, selected
from .schedule import Schedule

__all__ = ["Batch"]


class Batch:
    """Images that are defended in chunks: each chunk is probed, and its countered rows wait.

    They wait with their activations until they fill a chunk of their own. At most three chunks'
    activations are held at once: the rows that wait, which are fewer than a chunk; those of a probe; and
    a chunk that is joined of both, or that a step makes. If a step fails, it can be repeated with another
    size of chunks.

    Args:
        schedule: The passes and their order.
        pixels: [N, 3, H, W], uint8 or float in [0, 1]; N at least 1.
        noise: The noise of the N images, within eps.
        with_delta: Whether the result has the perturbations.
        with_clean: Whether the result has f(x) of every image.
        with_answer: Whether countered images are answered. If not, their embedding is NaN.

    Attributes:
        probed: How many images were probed so far.
    """

    def __init__(
        self,
        schedule: Schedule,
        pixels: Tensor,
        noise: Noise[Tensor],
        *,
        with_delta: bool,
        with_clean: bool,
        with_answer: bool,
    ) -> None:
        self._schedule, self._pixels, self._noise = schedule, pixels, noise
        self._with_delta, self._with_clean, self._with_answer = with_delta, with_clean, with_answer
        self.probed = 0
        self._waiting: list[tuple[Tensor, Probe]] = []  # images, int64 [M], and what is known of them
        self._answer: Counterattacked | None = None

    def run(self, chunks: Callable[[int, int], list[int]], chunk: int) -> None:
        """Goes on to the end, from where it stands.

        Args:
            chunks: Gives the sizes that a number of images is cut into, for a size of chunks.
            chunk: The size of chunks.
        """
        self._drain(chunk)
        for size in chunks(len(self._pixels) - self.probed, chunk):
            self._probe(size)
            self._drain(chunk)
        while self._waiting:
            self._counter(chunk)

    def result(self) -> Counterattacked:
        """Returns all answers; delta has no rows if it was not asked for."""
        assert self._answer is not None
        return self._answer

    def _probe(self, n: int) -> None:
        chunk = slice(self.probed, self.probed + n)
        halfway = self._schedule.first_half(
            self._pixels[chunk], selected(self._noise, chunk), with_clean=self._with_clean
        )
        delta = self._schedule.encoder.from_layout(halfway.delta) if self._with_delta else None
        drift, countered, clean, embedding = halfway[:4]
        answer = self._room(embedding, clean, drift, countered)
        answer.embedding[chunk], answer.clean_embedding[chunk] = embedding, clean
        answer.drift[chunk], answer.countered[chunk] = drift, countered
        if delta is not None:
            answer.delta[chunk] = delta
        if halfway.held is not None:
            self._waiting.append((halfway.rows + self.probed, halfway.held))
        self.probed += n

    def _room(self, embedding: Tensor, clean: Tensor, drift: Tensor, countered: Tensor) -> Counterattacked:
        """Memory for all answers, each in the type of its first."""
        if self._answer is None:
            n = len(self._pixels)
            self._answer = Counterattacked(
                embedding.new_empty(n, *embedding.shape[1:]),
                clean.new_empty(n, *clean.shape[1:]),
                drift.new_empty(n),
                countered.new_empty(n),
                drift.new_empty(n if self._with_delta else 0, *self._pixels.shape[1:]),
            )
        return self._answer

    def _drain(self, chunk: int) -> None:
        """Counters what fills a chunk, before more is probed: room is scarcest for what waits."""
        while sum(len(images) for images, _ in self._waiting) >= chunk:
            self._counter(chunk)

    def _counter(self, chunk: int) -> None:
        """Counters the first images that wait, at most a chunk of them."""
        self._cut(chunk)
        images, held = self._waiting[0]
        answer = self.result()
        if self._with_answer:
            answer.embedding[images], delta = self._schedule.second_half(held)
        else:
            answer.embedding[images], delta = torch.nan, self._schedule.perturbation(held)
        if self._with_delta:
            answer.delta[images] = self._schedule.encoder.from_layout(delta)
        del self._waiting[0]

    def _cut(self, chunk: int) -> None:
        """Makes the first chunk of what waits one piece. If this fails, nothing that waits is lost."""
        pieces, n = [], 0
        for images, held in self._waiting:
            pieces.append(selected((images, held), slice(chunk - n)))
            n += len(pieces[-1][0])
            if n == chunk:
                break
        rest = selected(self._waiting[len(pieces) - 1], slice(len(pieces[-1][0]), None))
        first = joined(pieces) if len(pieces) > 1 else pieces[0]
        self._waiting[: len(pieces)] = [first, rest] if len(rest[0]) else [first]
        del pieces, first
        if len(rest[0]):  # copied, as a view would keep the memory of what went into the first
            self._waiting[1] = mapped(torch.clone, rest)
