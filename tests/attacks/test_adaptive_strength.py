"""On the bundled model attacks are at least as strong as a plain PGD, and stronger where they know TTC."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clipfast.attacks import make
from clipfast.attacks.system import System, undefended
from clipfast.evaluation.defences.systems import countered
from clipfast.models.shapes import draw

EPS, ROUNDS = 2 / 255, 3


@pytest.fixture(scope="module")
def batch(bundled) -> tuple[Tensor, Tensor]:
    """Pictures that plain CLIP classifies rightly."""
    pictures = draw(12, seed=(79,), size=bundled.image_size[0])
    x, labels = torch.from_numpy(pictures.pixels).float() / 255, torch.from_numpy(pictures.labels)
    right = bundled.undefended(x).argmax(dim=1) == labels
    return x[right][:10], labels[right][:10]


@pytest.fixture(scope="module")
def plain(bundled, batch) -> Tensor:
    """PGD-10 on the undefended model, written again."""
    x, labels = batch
    attacked = (x + torch.empty_like(x).uniform_(-EPS, EPS)).clamp(0, 1)
    for _ in range(10):
        leaf = attacked.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(bundled.undefended(leaf), labels), leaf)
        attacked = (attacked + gradient.sign() / 255).clamp(x - EPS, x + EPS).clamp(0, 1)
    return attacked


def right(system: System, x: Tensor, labels: Tensor) -> float:
    """The mean number of images that a system gets right, over rounds of noise."""
    rounds = range(100, 100 + (ROUNDS if system.randomised else 1))
    flags = [system.answer(x, seed=s).logits.argmax(dim=1) == labels for s in rounds]
    return torch.stack(flags).sum().item() / len(flags)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("pgd-10", {}), ("cw", {"steps": 30}), ("apgd-ce", {}), ("apgd-dlr", {"steps": 50})],
)
def test_transfer_attacks_take_what_a_plain_pgd_takes(bundled, batch, plain, name, settings):
    x, labels = batch
    system = undefended(bundled)
    attacked = make(name, **settings).run(system, x, labels, eps=EPS, seed=0)
    assert (attacked.pixels - x).abs().max() <= EPS + 1e-6
    assert right(system, attacked.pixels, labels) <= right(system, plain, labels) + 1


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("bpda", {"samples": 2}),
        ("unrolled", {"steps": 5}),
        ("gate", {}),
        ("apgd-eot", {}),
    ],
)
def test_attacks_that_know_ttc_take_more_than_the_transferred_one(bundled, batch, plain, name, settings):
    x, labels = batch
    system = countered(bundled)
    attacked = make(name, **settings).run(system, x, labels, eps=EPS, seed=0)
    assert right(system, attacked.pixels, labels) < right(system, plain, labels)
