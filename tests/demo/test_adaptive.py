"""What attackers who know a system leave of it."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import make_classifier, pixels
from torch import Tensor

from clipfast import CounterattackConfig
from clipfast.attacks import make
from clipfast.attacks.pgd10 import EOT_SAMPLES, PGD_STEPS, correct
from clipfast.attacks.system import plain, undefended
from clipfast.demo import adaptive
from clipfast.demo.adaptive import attacks_on, still_right
from clipfast.evaluation.defences.systems import countered

EPS = 1 / 255


@pytest.fixture
def gated(tiny_clip, tokenizer):
    """A system behind an agreement gate that holds half of 24 pictures back, the pictures, its own labels."""
    x = pixels(24).float() / 255
    config = CounterattackConfig(
        gate="agreement", pass_through="clean", views=("mirror", "crop 0.8 centre"), tau_threshold=0.0
    )
    drift = make_classifier(tiny_clip, tokenizer, config=config).predict(x, seed=0).drift
    config = dataclasses.replace(config, tau_threshold=drift.median().item())
    system = countered(make_classifier(tiny_clip, tokenizer, config=config))
    return system, x, system.logits(x).argmax(dim=1)


def test_a_gate_is_attacked_from_all_sides(gated, classifier):
    attacks = attacks_on(gated[0])
    assert [attack.name for attack in attacks] == ["bpda", "gate-passed", "gate-countered", "both-branches"]
    assert {(attack.steps, attack.samples) for attack in attacks} == {(PGD_STEPS, EOT_SAMPLES)}
    assert [attack.name for attack in attacks_on(undefended(classifier))] == ["bpda"]


def test_nobody_withstands_more_than_any_single_attack(gated):
    """As each attack is made on what the others left, its pixels are other ones than those of all images."""
    system, x, labels = gated
    right = correct(system, x, labels)
    left = still_right(system, x, labels, right, eps=EPS, chunk=8, seed=0, progress=lambda _: None)
    alone = {
        name: right & correct(system, make(name).run(system, x, labels, eps=EPS, seed=0).pixels, labels)
        for name in adaptive.ADAPTIVE_ATTACKS
    }
    assert alone["bpda"].any()
    assert left.sum() < min(flags.sum() for flags in alone.values())


class Made(NamedTuple):
    pixels: Tensor


@dataclasses.dataclass
class Blackening:
    """Makes some of the images black, by their numbers, which stand in their pixels."""

    victims: set[int]
    ticks: int = 5
    seen: list[list[int]] = dataclasses.field(default_factory=list)

    def run(self, system, pixels, labels, *, eps, seed, progress) -> Made:  # noqa: ARG002
        self.seen.append(pixels[:, 0, 0, 0].tolist())
        for _ in range(self.ticks):
            progress()
        black = torch.tensor([number in self.victims for number in self.seen[-1]])
        return Made(pixels.masked_fill(black[:, None, None, None], 0.0))


def test_each_attack_is_made_on_what_the_ones_before_left(monkeypatch):
    numbers = torch.arange(1.0, 11.0)
    x = numbers[:, None, None, None].expand(-1, 3, 2, 2).clone()
    # Right, class 1, is whatever is not black.
    system = plain(
        "toy", lambda p: torch.stack([p.amax(dim=(1, 2, 3)) == 0, p.amax(dim=(1, 2, 3)) > 0], 1) * 1.0
    )
    attacks = [Blackening({2, 3, 9}), Blackening({3, 4}), Blackening(set(range(11))), Blackening(set())]
    monkeypatch.setattr(adaptive, "attacks_on", lambda _: attacks)
    right, told = np.array([True] * 8 + [False] * 2), []
    options = {"eps": EPS, "chunk": 3, "seed": 0, "progress": told.append}
    left = still_right(system, x, torch.ones(10, dtype=torch.int64), right, **options)
    assert [attack.seen for attack in attacks] == [
        [[1, 2, 3], [4, 5, 6], [7, 8]],
        [[1, 4, 5], [6, 7, 8]],
        [[1, 5, 6], [7, 8]],
        [],
    ]
    assert not left.any()
    assert right.sum() == 8
    assert sum(told) == pytest.approx(1)
    attacks[2].victims = {5}
    again = still_right(system, x, torch.ones(10, dtype=torch.int64), right, **options)
    assert np.flatnonzero(again).tolist() == [0, 5, 6, 7]
