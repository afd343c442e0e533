"""Attacks and answers, chunk by chunk. Each is a part that is kept, so that a stopped run can go on."""

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

Shard = tuple[int, int]  # (i, n): each n-th chunk from the i-th on, 0 <= i < n


def parse_shard(value: str) -> Shard:
    """Reads a shard "i/n", which counts from 1, as (i - 1, n).

    Raises:
        InputError: If the text is not of this form. Whether 1 <= i <= n is not checked.
    """
    index, _, count = value.partition("/")
    if not (index.isascii() and index.isdigit() and count.isascii() and count.isdigit()):
        raise InputError(f"expected --shard i/n, got {value!r}")
    return int(index) - 1, int(count)


class Answered(NamedTuple):
    """A defence's answers to n images in S rounds of noise.

    Attributes:
        labels: int64 [S, n].
        drift: float32 [n], what the gate measured in the first round; NaN without a gate.
        countered: bool [n], the images countered in the first round; False without a gate.
        passes: Encoder passes an image.
    """

    labels: NDArray[np.int64]
    drift: NDArray[np.float32]
    countered: NDArray[np.bool_]
    passes: Passes


class Made(NamedTuple):
    """A defence's answers to n images that an attack on it made, in S rounds of noise.

    Attributes:
        labels: int64 [S, n].
        broken: bool [n], the images that the attack itself saw misclassified.
        passes: Encoder passes that the attack spent, an image that was attacked.
    """

    labels: NDArray[np.int64]
    broken: NDArray[np.bool_]
    passes: Passes

    def right(self, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Returns which images are right in each round of noise and not broken.

        Args:
            labels: int64 [n], the true labels.

        Returns:
            bool [S, n].
        """
        return (self.labels == labels) & ~self.broken


@dataclass(frozen=True, kw_only=True)
class Runner:
    """Makes and keeps the parts of an evaluation.

    Attributes:
        images: All images.
        store: Where the parts are kept.
        device: Where attacks run.
        chunk: How many images are attacked at a time. Results depend on it, as each chunk has its own
            random numbers.
        seed: Of attacks and of answers.
        seeds: Rounds of noise, S.
        tick: Called with the work done, in images.
    """

    images: Images
    store: Store
    device: torch.device
    chunk: int
    seed: int
    seeds: int
    tick: Callable[[float], object]

    def chunks(self, images: int | None = None, *, shard: Shard | None = None) -> list[slice]:
        """Cuts the first images into pieces of `chunk`.

        Args:
            images: How many images; None for all.
            shard: (i, n), for each n-th piece, from the i-th on; None for all.
        """
        n = min(len(self.images), len(self.images) if images is None else images)
        pieces = [slice(first, min(first + self.chunk, n)) for first in range(0, n, self.chunk)]
        return pieces if shard is None else pieces[shard[0] :: shard[1]]

    def clean(self, rows: slice) -> Tensor:
        """Returns the pixels of images, float32 [n, 3, H, W] in [0, 1]."""
        return as_unit(self.images.pixels[rows]).to(self.device)

    def labels(self, rows: slice) -> Tensor:
        """Returns the true labels of images, int64 [n]."""
        return self.images.labels[rows].to(self.device)

    def answers(self, defence: Defence, pixels: Tensor, first_image: int) -> Answered:
        """Returns a defence's answers to pictures, kept or made now.

        Args:
            defence: The defence.
            pixels: float32 [n, 3, H, W] in [0, 1].
            first_image: The index of the first picture among all images, on which its noise depends.
        """
        description = {**self._description(defence), "part": "answers", "first_image": first_image}
        parts = self.store.get(
            digest(description, pixels.cpu().numpy()), lambda: self._answered(defence, pixels, first_image)
        )
        self.tick(len(pixels))
        return Answered(parts["labels"], parts["drift"], parts["countered"], _passes(parts))

    def transferred(
        self, attack: Attack, undefended: Defence, pixels: Tensor, labels: Tensor, eps: float
    ) -> Tensor:
        """Returns adversarial pixels made on the undefended model, kept or made now.

        What an attack adds is kept in float16. It is rounded so whether it was kept or made now.

        Args:
            attack: The attack.
            undefended: Undefended CLIP.
            pixels: float32 [n, 3, H, W] in [0, 1], a chunk of images.
            labels: int64 [n], which the attack moves away from.
            eps: The l-inf budget, in [0, 1] pixel units.

        Returns:
            float32 [n, 3, H, W], within eps of the pixels and within [0, 1].

        Raises:
            InputError: As `Attack.run` does.
        """

        def keep(attacked: Attacked) -> dict[str, NDArray[Any]]:
            return {"delta": (attacked.pixels - pixels).half().cpu().numpy()}

        parts = self._made_by(attack, undefended, pixels, labels, eps, keep, chunk_size=len(pixels))
        delta = torch.from_numpy(parts["delta"]).to(self.device)
        return project(pixels + delta.float(), pixels, eps)

    def attacked(
        self, attack: Attack, defence: Defence, pixels: Tensor, rows: slice, alive: Tensor, eps: float
    ) -> Made:
        """Returns a defence's answers to pictures that an attack made on it, kept or made now.

        Args:
            attack: The attack.
            defence: The defence that is attacked and answers.
            pixels: float32 [n, 3, H, W] in [0, 1], that the attack starts from.
            rows: Which of all images these are.
            alive: bool [n], the pictures to attack; the others are left out of the answers.
            eps: The l-inf budget, in [0, 1] pixel units.

        Raises:
            InputError: As `Attack.run` does.
        """

        def keep(attacked: Attacked) -> dict[str, NDArray[Any]]:
            whole = pixels.clone()  # an image's noise depends on its place
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
        """Returns a part that an attack makes, whose seed follows from the part's key.

        keep: what of the outcome is kept. chunk_size: images of this chunk, whose work is done when the
        attacked ones' is. first_image, alive: the places of the images, given if the noise of their
        answers matters.
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
