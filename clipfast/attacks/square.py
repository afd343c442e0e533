"""Square: random search on a system's answers, without gradients."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..inputs.draws import torch_seed
from ..inputs.rules import checked_integer
from .attack import Attack, Tick
from .eps_ball import check_labels, project
from .losses import margin
from .system import System

__all__ = ["Square"]

_SHARE = 0.8  # of the picture, which the first squares cover
# After each of these shares of the queries, the squares cover half of what they did.
_HALVED_AFTER = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """Square attack (Andriushchenko et al., ECCV 2020): tries changes, keeps those that raise the margin.

    The first change is vertical stripes; then come ever smaller squares, which all images share, of plus
    or minus eps in each channel. Each query is answered with fresh noise. An image is broken, and leaves,
    at its first wrong answer. It is not asked about a change that leaves it as it was. The system is a
    black box.

    Attributes:
        queries: How often the attack asks about an image, from 3 to 999999.

    Raises:
        InputError: If `queries` is not as described.
    """

    queries: int = 100

    def __post_init__(self) -> None:
        checked_integer("queries", self.queries, 10**6, start=3)

    @property
    def ticks(self) -> int:
        """Number of queries."""
        return self.queries

    def _run(
        self,
        system: System,
        pixels: Tensor,
        labels: Tensor,
        eps: float,
        tick: Tick,
        batch_size: int,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        attacked, broken = pixels.clone(), torch.zeros_like(labels, dtype=torch.bool)
        highest = pixels.new_full((len(pixels),), -torch.inf)
        for query in range(self.queries):
            rows = (~broken).nonzero().flatten()
            if not len(rows):
                break
            tried = self._change(attacked[rows], query, eps)
            tried = project(tried, pixels[rows], eps)
            if query:
                changed = (tried != attacked[rows]).flatten(1).any(dim=1)
                tried, rows = tried[changed], rows[changed]
            if len(rows):
                with torch.no_grad():
                    logits = system.answer(tried, seed=torch_seed()).logits
                check_labels(labels, logits)
                reached = margin(logits.float(), labels[rows])
                broken[rows] = logits.argmax(dim=1) != labels[rows]
                better = (reached > highest[rows]) | broken[rows]
                attacked[rows[better]], highest[rows[better]] = tried[better], reached[better]
            tick()
        return attacked, broken

    def _change(self, pixels: Tensor, query: int, eps: float) -> Tensor:
        """Returns what a query tries: pixels [n, 3, H, W] as they are, stripes, or a square."""
        n, channels, height, width = pixels.shape
        if query == 0:
            return pixels
        if query == 1:
            return pixels + eps * _signs(n, channels, 1, width).to(pixels)
        done = (query - 2) / (self.queries - 2)
        share = _SHARE / 2 ** bisect.bisect_left(_HALVED_AFTER, done)
        side = min(max(round(math.sqrt(share * height * width)), 1), height, width)
        top, left = (int(torch.randint(length - side + 1, ())) for length in (height, width))
        tried = pixels.clone()
        tried[:, :, top : top + side, left : left + side] += 2 * eps * _signs(channels, 1, 1).to(pixels)
        return tried


def _signs(*shape: int) -> Tensor:
    return 2 * torch.randint(2, shape) - 1
