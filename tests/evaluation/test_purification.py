"""CLIPure-Cos on embeddings: its steps, what they come to as published, and their gradient."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clipfast.evaluation.defences.purification import CLIPURE, Turns, purified

SETTINGS = [CLIPURE, Turns(step_size=0.3, steps=3), Turns(step_size=2.0, steps=5)]
COSINES = [-0.3, 0.0, 0.02, 0.05, 0.2, 0.6]


@pytest.fixture
def null() -> Tensor:
    return F.normalize(torch.randn(9, dtype=torch.float64), dim=0)


@pytest.fixture
def f(null) -> Tensor:
    """Embeddings of several lengths, whose cosines with the null prompt are COSINES."""
    away = torch.randn(len(COSINES), 9, dtype=torch.float64)
    away = F.normalize(away - (away @ null)[:, None] * null, dim=1)
    cosines = torch.tensor(COSINES, dtype=torch.float64)[:, None]
    lengths = torch.arange(1, len(COSINES) + 1, dtype=torch.float64)[:, None]
    return lengths * (cosines * null + (1 - cosines**2).sqrt() * away)


def by_autograd(f: Tensor, null: Tensor, turns: Turns) -> Tensor:
    """One embedding after another, each step along the gradient that autograd finds of the cosine."""
    rows = []
    for row in f:
        unit = row / row.norm()
        for _ in range(turns.steps):
            unit = unit if unit.requires_grad else unit.requires_grad_()
            cosine = torch.dot(unit, null) / (unit.norm() * null.norm())
            (gradient,) = torch.autograd.grad(cosine, unit, create_graph=True)
            ahead = unit + turns.step_size * gradient / gradient.norm()
            unit = ahead / ahead.norm()
        rows.append(unit)
    return torch.stack(rows)


@pytest.mark.parametrize("turns", SETTINGS)
def test_steps_follow_the_gradient_of_the_cosine(f, null, turns):
    turned = purified(f, null, turns)
    torch.testing.assert_close(turned, by_autograd(f, null, turns).detach(), rtol=0, atol=1e-9)
    torch.testing.assert_close(turned.norm(dim=1), torch.ones(len(f), dtype=torch.float64))
    each = torch.cat([purified(row[None], null, turns) for row in f])
    torch.testing.assert_close(turned, each, rtol=0, atol=1e-9)


def test_a_step_turns_towards_the_null_prompt_by_the_arctangent_of_its_size(f, null):
    before, after = (torch.arccos(u @ null) for u in (F.normalize(f), purified(f, null, Turns(0.3, 1))))
    torch.testing.assert_close(before - after, torch.full_like(before, math.atan(0.3)))


def test_as_published_it_gives_back_what_is_near_the_null_prompt_and_mirrors_the_rest(f, null):
    turned, unit = purified(f, null), F.normalize(f)
    assert CLIPURE == (30, 10)
    near = unit @ null > 1 / math.sqrt(901)
    assert near.tolist() == [cosine > 0.033 for cosine in COSINES]
    torch.testing.assert_close(turned[near], unit[near], rtol=0, atol=1e-9)
    away = (unit - (unit @ null)[:, None] * null)[~near]
    assert ((turned[~near] * away).sum(dim=1) < -0.85).all()


@pytest.mark.parametrize("turns", SETTINGS)
def test_the_gradient_is_exact(f, null, turns):
    direction = torch.randn_like(f)
    leaf = f.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((purified(leaf, null, turns) * direction).sum(), leaf)
    leaf = f.clone().requires_grad_()
    (wanted,) = torch.autograd.grad((by_autograd(leaf, null, turns) * direction).sum(), leaf)
    torch.testing.assert_close(gradient, wanted, rtol=1e-6, atol=1e-9)
    assert torch.autograd.gradcheck(lambda e: purified(e, null, turns), f.clone().requires_grad_())
