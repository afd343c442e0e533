"""Attacks and answers, chunk by chunk: each is a part that is kept, so that a stopped run can go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..attacks import Attack, Attacked
from ..attacks.eps_ball import project
from ..attacks.pass_counter import PassCounter
from ..defence.passes import Passes
from ..errors import InputError
from ..inputs.tensors import as_unit
from .datasets import Images
from .defences import Defence
from .store import Store, digest

__all__ = ["Answered", "Made", "Runner", "Shard", "parse_shard"]

Shard = tuple[int, int]


def parse_shard(value: str) -> Shard:
    """(i - 1, n) of "i/n". Raises InputError for anything else."""
    index, _, count = value.partition("/")
    if not (index.isascii() and index.isdigit() and count.isascii() and count.isdigit()):
        raise InputError(f"expected --shard i/n, got {value!r}")
    return int(index) - 1, int(count)


class Answered(NamedTuple):
    """What a defence says of n images under S rounds of noise."""

    labels: NDArray[np.int64]  # [S, n]
    drift: NDArray[np.float32]  # [n] of the first round, NaN without a gate
    countered: NDArray[np.bool_]  # [n]
    passes: Passes  # an image


class Made(NamedTuple):
    """What an attack on a defence left of n images."""

    labels: NDArray[np.int64]  # [S, n], of the attacked pictures
    broken: NDArray[np.bool_]  # [n], as the attack saw it
    passes: Passes  # an image that was attacked

    def right(self, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which are right of these labels, int64 [n], under each round of noise: bool [S, n]."""
        return (self.labels == labels) & ~self.broken


@dataclass(frozen=True, kw_only=True)
class Runner:
    """Makes and keeps the parts of an evaluation.

    images: all of them. chunk: how many are attacked at a time; results depend on it, as each chunk has its
    own random numbers. seed: of attacks and of answers. seeds: rounds of noise, S. tick: called with images'
    worth of work done.
    """

    images: Images
    store: Store
    device: torch.device
    chunk: int
    seed: int
    seeds: int
    tick: Callable[[float], object]

    def chunks(self, images: int | None = None, *, shard: Shard | None = None) -> list[slice]:
        """The first images in pieces, all where None. shard: (i, n), for each n-th piece from the i-th on."""
        n = min(len(self.images), len(self.images) if images is None else images)
        pieces = [slice(first, min(first + self.chunk, n)) for first in range(0, n, self.chunk)]
        return pieces if shard is None else pieces[shard[0] :: shard[1]]

    def clean(self, rows: slice) -> Tensor:
        """Pixels float32 [n, 3, H, W] in [0, 1]."""
        return as_unit(self.images.pixels[rows]).to(self.device)

    def labels(self, rows: slice) -> Tensor:
        """int64 [n]."""
        return self.images.labels[rows].to(self.device)

    def answers(self, defence: Defence, pixels: Tensor, first_image: int) -> Answered:
        """A defence's answers to pixels float32 [n, 3, H, W], the first of which has this index."""
        description = {**self._description(defence), "part": "answers", "first_image": first_image}
        parts = self.store.get(
            digest(description, pixels.cpu().numpy()), lambda: self._answered(defence, pixels, first_image)
        )
        self.tick(len(pixels))
        return Answered(parts["labels"], parts["drift"], parts["countered"], _passes(parts))

    def transferred(
        self, attack: Attack, undefended: Defence, pixels: Tensor, labels: Tensor, eps: float
    ) -> Tensor:
        """Adversarial pixels, float32 [n, 3, H, W], made on the undefended model.

        What they add is kept in float16, and goes through that whether it was kept or not.
        """

        def keep(attacked: Attacked) -> dict[str, NDArray[Any]]:
            return {"delta": (attacked.pixels - pixels).half().cpu().numpy()}

        parts = self._made_by(attack, undefended, pixels, labels, eps, keep, chunk_size=len(pixels))
        delta = torch.from_numpy(parts["delta"]).to(self.device)
        return project(pixels + delta.float(), pixels, eps)

    def attacked(
        self, attack: Attack, defence: Defence, pixels: Tensor, rows: slice, alive: Tensor, eps: float
    ) -> Made:
        """A defence's answers to pictures that an attack made on it, of the rows that are alive, bool [n].

        pixels: [n, 3, H, W], of the images `rows`, that the attack starts from.
        """

        def keep(attacked: Attacked) -> dict[str, NDArray[Any]]:
            whole = pixels.clone()  # an image's noise is that of its place
            whole[alive] = attacked.pixels
            answered = self._answered(defence, whole, rows.start)
            return {
                "labels": answered["labels"][:, alive.cpu().numpy()],
                "broken": attacked.broken.cpu().numpy(),
                "passes": np.array([attacked.passes.forward, attacked.passes.backward]),
            }

        parts = self._made_by(
            attack,
            defence,
            pixels[alive],
            self.labels(rows)[alive],
            eps,
            keep,
            chunk_size=len(pixels),
            first_image=rows.start,
            alive=alive,
        )
        return Made(parts["labels"], parts["broken"], _passes(parts))

    def _answered(self, defence: Defence, pixels: Tensor, first_image: int) -> dict[str, NDArray[Any]]:
        rounds = self.seeds if defence.system.randomised else 1
        with torch.no_grad(), PassCounter(*defence.system.classifiers) as spent:
            answers = [
                defence.system.answer(pixels, seed=self.seed + i, first_image=first_image)
                for i in range(rounds)
            ]
        labels = torch.stack([answer.logits.argmax(dim=1) for answer in answers]).cpu().numpy()
        first, n = answers[0], len(pixels)
        return {
            "labels": labels.repeat(self.seeds // rounds, axis=0),
            "drift": np.full(n, np.nan, np.float32) if first.drift is None else first.drift.cpu().numpy(),
            "countered": np.zeros(n, bool) if first.countered is None else first.countered.cpu().numpy(),
            "passes": np.array([spent.forward, spent.backward]) / max(1, n * rounds),
        }

    def _description(self, defence: Defence) -> dict[str, Any]:
        return {**defence.identity, "seed": self.seed, "seeds": self.seeds}

    def _made_by(
        self,
        attack: Attack,
        defence: Defence,
        pixels: Tensor,
        labels: Tensor,
        eps: float,
        keep: Callable[[Attacked], dict[str, NDArray[Any]]],
        *,
        chunk_size: int,
        first_image: int | None = None,
        alive: Tensor | None = None,
    ) -> dict[str, NDArray[Any]]:
        """A part that an attack makes, whose seed follows from the part's key. keep: what of its outcome.

        chunk_size: images of this chunk, whose work is done when the attacked ones' is. first_image, alive:
        the places of the images, where the noise that they are answered with counts.
        """
        description = {
            **self._description(defence),
            "part": repr(attack),
            "eps": eps,
            "first_image": first_image,
        }
        arrays = (pixels, labels) if alive is None else (pixels, labels, alive)
        key = digest(description, *(array.cpu().numpy() for array in arrays))

        def make() -> dict[str, NDArray[Any]]:
            attacked = attack.run(
                defence.system,
                pixels,
                labels,
                eps=eps,
                seed=int(key[:15], 16),
                batch_size=self.chunk,
                progress=lambda: self.tick(chunk_size),
            )
            return keep(attacked)

        if self.store.has(key):
            self.tick(attack.ticks * chunk_size)
        return self.store.get(key, make)


def _passes(parts: dict[str, NDArray[Any]]) -> Passes:
    return Passes(*map(float, parts["passes"]))
