"""Attacks on the bundled model, whose own defence is what they are for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clipfast.evaluation import systems
from clipfast.evaluation.attacks import make
from clipfast.evaluation.shapes import draw

EPS = 2 / 255
SEEDS = 4


@pytest.fixture(scope="module")
def batch(bundled):
    """Pictures that plain CLIP classifies rightly."""
    pictures = draw(16, seed=(78,), size=bundled.image_size[0])
    x, labels = torch.from_numpy(pictures.pixels).float() / 255, torch.from_numpy(pictures.labels)
    right = bundled.undefended(x).argmax(dim=1) == labels
    return x[right][:12], labels[right][:12]


@pytest.fixture(scope="module")
def transferred(bundled, batch):
    """PGD-10 on the undefended model, written again."""
    x, labels = batch
    attacked = (x + torch.empty_like(x).uniform_(-EPS, EPS)).clamp(0, 1)
    for _ in range(10):
        leaf = attacked.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(bundled.undefended(leaf), labels), leaf)
        attacked = (attacked + gradient.sign() / 255).clamp(x - EPS, x + EPS).clamp(0, 1)
    return attacked


def accuracy(system, x, labels) -> float:
    answers = [system.answer(x, seed=100 + s).logits for s in range(SEEDS if system.randomised else 1)]
    return float(np.mean([(z.argmax(dim=1) == labels).double().mean() for z in answers]))


@pytest.mark.parametrize("name", ["pgd-10", "apgd-ce"])
def test_transfer_attacks_break_as_much_as_plain_pgd(bundled, batch, transferred, name):
    x, labels = batch
    system = systems.undefended(bundled)
    attacked = make(name).run(system, x, labels, eps=EPS, seed=0).pixels
    assert accuracy(system, attacked, labels) <= accuracy(system, transferred, labels) < 0.5


def test_an_adaptive_attack_beats_the_transfer_attack(bundled, batch, transferred):
    x, labels = batch
    system = systems.countered(bundled)
    attacked = make("bpda", samples=4).run(system, x, labels, eps=EPS, seed=0).pixels
    assert accuracy(system, attacked, labels) < accuracy(system, transferred, labels) - 0.05
