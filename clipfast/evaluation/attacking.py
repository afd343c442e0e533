"""Attacks the defences of one model, chunk by chunk, and gathers which images each still gets right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..defence.passes import Passes
from ..errors import InputError
from .defences import Defence
from .planned_attacks import Planned
from .results import CLEAN, Results, SystemResult
from .runner import Runner, Shard

__all__ = ["attack_defences", "work"]


def attack_defences(
    runner: Runner,
    suite: Sequence[Defence],
    plans: Mapping[float, Sequence[Planned]],
    *,
    shard: Shard | None = None,
) -> Results | None:
    """Runs the attacks that are not finished yet, and gathers the results of all.

    Curves and controls are made apart.

    Args:
        runner: Makes and keeps the parts.
        suite: The defences, undefended CLIP first.
        plans: The attacks at each l-inf budget, in [0, 1] pixel units.
        shard: (i, n), to make only the parts of each n-th chunk, from the i-th on, 0 <= i < n; None for
            all.

    Returns:
        The results; None for a shard, which makes only parts of them.

    Raises:
        InputError: If there are more shards than chunks.
    """
    results = Results(
        run={},
        eps=tuple(plans),
        columns=(CLEAN, *(p.column for plan in plans.values() for p in plan)),
        systems=[
            SystemResult(
                name=defence.system.name,
                description=defence.description,
                randomised=defence.system.randomised,
                tau_threshold=defence.system.tau_threshold,
            )
            for defence in suite
        ],
    )
    gathering = [_Gathering(result, len(runner.images), runner.seeds) for result in results.systems]
    for rows in _of_shard(runner, shard):
        _run_chunk(runner, suite, plans, rows, gathering)
    if shard is not None:
        return None
    for gathered in gathering:
        gathered.finish()
    return results


def work(
    runner: Runner,
    suite: Sequence[Defence],
    plans: Mapping[float, Sequence[Planned]],
    shard: Shard | None = None,
) -> int:
    """Returns how much work a runner ticks for `attack_defences`.

    Args:
        runner: Makes the parts.
        suite: The defences, undefended CLIP first.
        plans: The attacks at each l-inf budget, in [0, 1] pixel units.
        shard: As of `attack_defences`.

    Raises:
        InputError: If there are more shards than chunks.
    """
    each = len(suite)  # answers to clean pictures
    for p in (p for plan in plans.values() for p in plan):
        if p.column.kind == "transfer":
            each += p.attack.ticks + len(suite)
        else:
            each += p.attack.ticks * sum(p.attack.applies(defence.system) for defence in suite)
    return each * sum(rows.stop - rows.start for rows in _of_shard(runner, shard))


def _of_shard(runner: Runner, shard: Shard | None) -> list[slice]:
    """Returns a shard's chunks. Raises InputError if it has none."""
    mine = runner.chunks(shard=shard)
    if not mine:
        raise InputError(f"expected at most as many shards as chunks, {len(runner.chunks())}")
    return mine


class _Gathering:
    """One system's flags and passes, as chunks bring them."""

    def __init__(self, result: SystemResult, images: int, seeds: int) -> None:
        self.result = result
        self._shape = seeds, images
        self._spent: dict[str, list[tuple[int, Passes]]] = {}
        self._attack_spent: dict[str, list[tuple[int, Passes]]] = {}

    def right(self, key: str, rows: slice, right: NDArray[np.bool_]) -> None:
        self.result.right.setdefault(key, np.zeros(self._shape, bool))[:, rows] = right

    def gate(self, key: str, rows: slice, drift: NDArray[np.float32], countered: NDArray[np.bool_]) -> None:
        if self.result.tau_threshold is None:
            return
        self.result.drift.setdefault(key, np.zeros(self._shape[1], np.float32))[rows] = drift
        self.result.countered.setdefault(key, np.zeros(self._shape[1], bool))[rows] = countered

    def spent(self, key: str, n: int, passes: Passes, *, by_attack: bool) -> None:
        (self._attack_spent if by_attack else self._spent).setdefault(key, []).append((n, passes))

    def finish(self) -> None:
        self.result.passes = {key: _mean(spent) for key, spent in self._spent.items()}
        self.result.attack_passes = {key: _mean(spent) for key, spent in self._attack_spent.items()}


def _mean(spent: list[tuple[int, Passes]]) -> Passes:
    """Returns passes an image, over chunks of n images."""
    total = max(1, sum(n for n, _ in spent))
    return Passes(
        sum(n * passes.forward for n, passes in spent) / total,
        sum(n * passes.backward for n, passes in spent) / total,
    )


def _run_chunk(
    runner: Runner,
    suite: Sequence[Defence],
    plans: Mapping[float, Sequence[Planned]],
    rows: slice,
    gathering: Sequence[_Gathering],
) -> None:
    undefended, clean, labels = suite[0], runner.clean(rows), runner.labels(rows)
    predicted = _answer(runner, undefended, gathering[0], CLEAN.key, clean, rows)
    for defence, gathered in zip(suite[1:], gathering[1:], strict=True):
        _answer(runner, defence, gathered, CLEAN.key, clean, rows)
    for eps, plan in plans.items():
        transferred = []
        for p in (p for p in plan if p.column.kind == "transfer"):
            away_from = labels if p.column.labels == "true" else predicted
            pixels = runner.transferred(p.attack, undefended, clean, away_from, eps)
            transferred.append(pixels)
            for defence, gathered in zip(suite, gathering, strict=True):
                _answer(runner, defence, gathered, p.column.key, pixels, rows)
        for defence, gathered in zip(suite, gathering, strict=True):
            _attack(runner, defence, gathered, plan, next(iter(transferred), clean), rows, eps)


def _answer(
    runner: Runner, defence: Defence, gathered: _Gathering, key: str, pixels: Tensor, rows: slice
) -> Tensor:
    """Notes a defence's answers, and returns its labels of the first round of noise, int64 [n]."""
    answers = runner.answers(defence, pixels, rows.start)
    gathered.right(key, rows, answers.labels == runner.labels(rows).cpu().numpy())
    gathered.gate(key, rows, answers.drift, answers.countered)
    gathered.spent(key, len(pixels), answers.passes, by_attack=False)
    return torch.from_numpy(answers.labels[0]).to(runner.device)


def _attack(
    runner: Runner,
    defence: Defence,
    gathered: _Gathering,
    plan: Sequence[Planned],
    transferred: Tensor,
    rows: slice,
    eps: float,
) -> None:
    """Runs the adaptive attacks in order, on the images still right in every round of noise.

    transferred: pixels [n, 3, H, W] of the first transfer attack, clean ones without one.
    """
    clean, labels = runner.clean(rows), runner.labels(rows).cpu().numpy()
    alive = gathered.result.right[CLEAN.key][:, rows].all(axis=0)
    for p in (p for p in plan if p.column.kind == "adaptive" and p.attack.applies(defence.system)):
        right = np.zeros((runner.seeds, len(clean)), bool)
        if alive.any():
            start = transferred if p.attack.keeps_pixels else clean
            made = runner.attacked(p.attack, defence, start, rows, torch.from_numpy(alive), eps)
            right[:, alive] = made.right(labels[alive])
            gathered.spent(p.column.key, int(alive.sum()), made.passes, by_attack=True)
        else:
            runner.tick(p.attack.ticks * len(clean))
        gathered.right(p.column.key, rows, right)
        alive = right.all(axis=0)
